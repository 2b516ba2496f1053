"""Checkpoints that are FP8 themselves, with a scale a row or a matrix beside
each of their matrices: their bytes pass through, cut and fused, against the
NumPy oracle; what would need more than that is refused."""

import json

import numpy as np
import pytest

import cases
import family_cases
import files
import oracle
import oracle_fp8
import oracle_values
from conftest import SEED
from fp8_cases import SHAPES, fp8_checkpoint
from test_fp8_layouts import FAMILIES, block_config
from test_plain_path import done
from test_processes import (catalog, launch, saved_refits,  # noqa: F401
                            start)

def with_quant(spec, quant):
    return f"{spec}{',' if ':' in spec else ':'}quant={quant}"


def compare(weft, tmp_path, config, tensors, spec):
    folder = tmp_path / "checkpoint"
    if not folder.exists():
        cases.write_checkpoint(folder, config, tensors)
    for rank in range(oracle.num_ranks(spec)):
        out = tmp_path / "out.safetensors"
        words = ("--checkpoint", folder, "--layout", spec, "--rank", rank)
        done(weft("shard", *words, "--out", out))
        files.assert_equal(
            files.read(out),
            oracle_fp8.shard_quantised(config, tensors, spec, rank))
        if rank == 0:
            done(weft("verify", out, *words))
        out.unlink()


@pytest.mark.parametrize("quant", SHAPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_engines_hold_what_the_file_holds(weft, tmp_path, family, quant):
    rng = np.random.default_rng([SEED, *family.encode(), *quant.encode()])
    engines = [family_cases.random_spec]
    if family in family_cases.SGLANG:
        engines.append(family_cases.random_sglang_spec)
    draw = engines[int(rng.integers(len(engines)))]
    while True:
        config = family_cases.random_config(rng, family)
        config.pop("num_nextn_predict_layers", None)
        tensors = fp8_checkpoint(
            rng, config, quant,
            plain_layers=[0] if rng.integers(3) == 0 else [])
        spec = draw(rng, config, tmp_path)
        pattern = {n: oracle.Bits("F32", t.bits.astype(np.uint32))
                   for n, t in tensors.items() if not n.endswith("_scale")}
        is_fp8 = any(t.dtype == "F8_E4M3" for t in tensors.values())
        if is_fp8 and "dtype" not in spec and spec.startswith(
                ("vllm", "sglang")) and cases.is_legal(config, pattern, spec):
            break
    compare(weft, tmp_path, config, tensors, with_quant(spec, quant))


@pytest.mark.parametrize("quant", SHAPES)
@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (8, 1)])
def test_fused_and_cut_by_tensor_parallelism(weft, tmp_path, heads, tp, quant):
    """Also with more ranks than heads of keys and values."""
    rng = np.random.default_rng([SEED, tp, *heads])
    config = {
        "architectures": ["LlamaForCausalLM"], "hidden_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1], "head_dim": 4,
        "intermediate_size": 20, "vocab_size": 1003,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16"}
    tensors = fp8_checkpoint(rng, config, quant)
    compare(weft, tmp_path, config, tensors,
            f"vllm:tp={tp},quant={quant}")


def test_a_fused_checkpoint_with_a_scale_a_row(weft, tmp_path):
    rng = np.random.default_rng(SEED)
    config = {
        "architectures": ["Phi3ForCausalLM"], "hidden_size": 12,
        "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 8, "vocab_size": 64,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16"}
    tensors = fp8_checkpoint(rng, config, "fp8-channel")
    for name in list(tensors):
        if name.endswith(("qkv_proj.weight", "gate_up_proj.weight")):
            rows, columns = tensors[name].bits.shape
            tensors[name] = oracle.Bits("F8_E4M3", rng.integers(
                0, 256, (rows, columns)).astype(np.uint8))
            tensors[f"{name}_scale"] = oracle.Bits("F32", np.arange(
                1, rows + 1, dtype=np.float32).view(np.uint32)[:, None])
    compare(weft, tmp_path, config, tensors, "vllm:tp=2,quant=fp8-channel")


def chunk(tensor, count, index):
    return tensor.rows(slice(*oracle_values.chunk(len(tensor.bits), count,
                                                  index)))


@pytest.mark.parametrize("quant", SHAPES)
def test_trainers_hold_the_files_own_tensors(weft, tmp_path, quant):
    """hf as the file; fsdp in chunks, a scale without dimensions whole."""
    rng = np.random.default_rng([SEED, *quant.encode()])
    config = family_cases.random_config(rng, "qwen3_moe")
    tensors = fp8_checkpoint(rng, config, quant)
    folder, out = tmp_path / "checkpoint", tmp_path / "out.safetensors"
    cases.write_checkpoint(folder, config, tensors)

    def shard(spec, rank):
        done(weft("shard", "--checkpoint", folder, "--layout", spec, "--rank",
                  rank, "--out", out))
        held = files.read(out)
        out.unlink()
        return held

    files.assert_equal(shard("hf", 0), tensors)
    files.assert_equal(shard("hf:dtype=f32", 0), {
        n: t if t.dtype == "F8_E4M3" or n.endswith("_scale")
        else oracle.cast(t, "F32") for n, t in tensors.items()})
    for rank in range(3):
        files.assert_equal(shard("fsdp:shard=3,names=hf", rank), {
            n: chunk(t, 3, rank) if t.bits.ndim else t
            for n, t in tensors.items()})
    if quant == "fp8-channel":
        held = shard("fsdp:tp=2,names=hf", 1)
        q_proj = "model.layers.0.self_attn.q_proj.weight"
        o_proj = "model.layers.0.self_attn.o_proj.weight"
        for name in (q_proj, f"{q_proj}_scale"):
            files.assert_equal({"": held[name]},
                               {"": chunk(tensors[name], 2, 1)})
        files.assert_equal({"": held[f"{o_proj}_scale"]},
                           {"": tensors[f"{o_proj}_scale"]})


@pytest.mark.parametrize("trainer,engine", [
    ("hf", "vllm:tp=2,quant=fp8-channel"),
    ("fsdp:shard=3,names=hf", "vllm:tp=2,ep=2,quant=fp8-channel"),
    ("fsdp:shard=2,tp=2,names=hf", "vllm:tp=4,quant=fp8-channel"),
    ("fsdp:shard=3,names=hf", "vllm:tp=2,quant=fp8-tensor"),
    ("hf", "sglang:tp=2,quant=fp8-tensor"),
])
@pytest.mark.parametrize("transport", ["shm", "ucx"])
def test_versions_arrive_as_they_were_published(
        start, catalog, tmp_path, trainer, engine,  # noqa: F811
        transport):
    rng = np.random.default_rng([SEED, *trainer.encode(), *engine.encode()])
    config = block_config(rng, "qwen3_moe") | {"num_key_value_heads": 2,
                                               "num_attention_heads": 4}
    quant = engine.rpartition("=")[2]
    tensors = fp8_checkpoint(rng, config, quant)
    checkpoint = tmp_path / "checkpoint"
    cases.write_checkpoint(checkpoint, config, tensors)
    processes = launch(start, catalog, checkpoint, trainer, engine, transport)
    for step, rank, held in saved_refits(*processes, 2,
                                         tmp_path / "out.safetensors"):
        stepped = {n: oracle.step(t, step) for n, t in tensors.items()}
        files.assert_equal(
            held, oracle_fp8.shard_quantised(config, stepped, engine, rank))


@pytest.mark.parametrize("quant", SHAPES)
def test_plans_know_what_the_file_has(weft, tmp_path, quant):
    """Of a checkpoint, the bytes that cross and what is converted; of its config
    alone, those of BF16."""
    rng = np.random.default_rng(SEED)
    config = block_config(rng, "qwen3") | {"torch_dtype": "bfloat16"}
    tensors = fp8_checkpoint(rng, config, quant)
    folder = tmp_path / "checkpoint"
    cases.write_checkpoint(folder, config, tensors)
    spec = f"vllm:tp=2,quant={quant}"

    def answer(*words):
        return json.loads(done(weft("plan", *words, "--from",
                                    "fsdp:shard=3,names=hf", "--to", spec,
                                    "--json")))

    held = [oracle_fp8.shard_quantised(config, tensors, spec, rank)
            for rank in range(2)]
    plan = answer("--checkpoint", folder)
    name = "model.layers.0.mlp.up_proj.weight_scale"
    dtype = tensors[name].dtype
    scale_bytes = np.dtype(oracle.WORDS[dtype]).itemsize
    for rank, tensors_of in zip(plan["ranks"], held, strict=True):
        assert sum(peer["src_bytes"] for peer in rank["peers"]) == sum(
            t.bits.size * scale_bytes if name.endswith("_scale")
            else len(t.data()) for name, t in tensors_of.items())
        assert "stages" not in rank
    parts = answer("--checkpoint", folder, "--explain", name)["parts"]
    assert plan["unused_checkpoint_tensors"] == []
    assert plan["unread_trainer_tensors"] == []
    assert {part["conversion"] for part in parts} == {f"{dtype} -> F32"}
    assert not any(part["lossy"] for part in parts)
    assert answer("--config", folder)["sent_bytes"] > plan["sent_bytes"]
    # The options that say what is planned exclude each other.
    for words in ([], ["--config", folder, "--checkpoint", folder]):
        result = weft("plan", *words, "--from", "hf", "--to", spec)
        assert result.returncode == 2
        assert "--config,--checkpoint" in result.stderr


@pytest.fixture
def refused(weft, tmp_path):
    """refused(tensors, spec): what is said of a checkpoint that is changed."""
    config = {
        "architectures": ["Qwen3ForCausalLM"], "hidden_size": 12,
        "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 4, "intermediate_size": 8,
        "vocab_size": 64, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16"}

    def run(quant, change, spec):
        tensors = fp8_checkpoint(np.random.default_rng(SEED), config, quant)
        change(tensors)
        folder = tmp_path / "checkpoint"
        cases.write_checkpoint(folder, config, tensors)
        result = weft("shard", "--checkpoint", folder, "--layout", spec,
                      "--rank", 0, "--out", tmp_path / "out.safetensors")
        assert result.returncode == 1, result
        assert not (tmp_path / "out.safetensors").exists()
        return result.stderr

    return run


def nothing(tensors):
    del tensors


Q = "model.layers.0.self_attn.q_proj.weight"
K = "model.layers.0.self_attn.k_proj.weight"


@pytest.mark.parametrize("quant,spec,words", [
    ("fp8-channel", "vllm",
     ["a scale for each row", "qkv_proj.weight", "not held quantised",
      "nothing is dequantised", "give quant=fp8-channel"]),
    ("fp8-tensor", "sglang:tp=2,dtype=bf16",
     ["one scale", "not held quantised", "give quant=fp8-tensor"]),
    ("fp8-channel", "vllm:quant=fp8-block",
     ["a scale for each row", "quant=fp8-block would quantise it anew",
      "give quant=fp8-channel"]),
    ("fp8-channel", "vllm:tp=2,quant=fp8-tensor",
     ["quant=fp8-tensor would quantise it anew", "give quant=fp8-channel"]),
    ("fp8-tensor", "vllm:quant=fp8-channel",
     ["one scale", "give quant=fp8-tensor"]),
    ("fp8-channel", "vllm:quant=fp8-channel,scales=f32-pow2",
     ["scales=f32-pow2 would quantise it anew", "give quant=fp8-channel"]),
    ("fp8-channel", "megatron:tp=2",
     ["F8_E4M3", "not held quantised", "only hf and fsdp:names=hf"]),
])
def test_other_engines_are_refused(refused, quant, spec, words):
    sentence = refused(quant, nothing, spec)
    for word in [*words, "F8_E4M3 in the checkpoint"]:
        assert word in sentence, json.dumps(sentence)


def bits(dtype, shape):
    return oracle.Bits(dtype, np.ones(shape, files.ITEMS[dtype]))


@pytest.mark.parametrize("change,words", [
    # What engines would miss without a word.
    (lambda t: t.update({
        "model.layers.0.self_attn.q_proj.input_scale": bits("F32", (1,)),
        "model.layers.0.self_attn.k_scale": bits("F32", ()),
        "model.layers.0.self_attn.v_scale": bits("F32", ())}),
     ['k_scale" and 2 more', "not carried", "of activations or of the KV",
      "give a checkpoint without them"]),
    (lambda t: t.pop(f"{K}_scale"),
     [f'"{K}" is F8_E4M3 but the checkpoint has neither', "_scale_inv"]),
    (lambda t: t.update({f"{K}_scale": bits("F32", (3,))}),
     [f'"{K}_scale" has the shape [3]', "[8,1] or [8]", "[1] or []"]),
    # Blocks under the name that rows have.
    (lambda t: t.update({f"{K}_scale": bits("F32", (1, 2))}),
     ["the shape [1,2]", f'"{K}_scale_inv"']),
    (lambda t: t.update({f"{K}_scale_inv": bits("F32", (1, 1))}),
     ["scales twice", f'"{K}_scale_inv"']),
    (lambda t: t.update({f"{K}_scale": bits("U8", (8, 1))}),
     [f'"{K}_scale" is U8', "F32, BF16 or F16"]),
    (lambda t: t.update({K: bits("I8", (8, 12))}),
     [f'"{K}" is I8', f'"{K}_scale" beside it']),
    (lambda t: t.update({K: bits("BF16", (8, 12))}),
     [f'"{K}" is BF16', f'"{K}_scale" beside it']),
    # Fused with one that is FP8.
    (lambda t: t.update({K: bits("BF16", (8, 12))}) or t.pop(f"{K}_scale"),
     ["qkv_proj", "is F8_E4M3", f'"{K}" is BF16', "not at all"]),
    (lambda t: t.update({"lm_head.weight": bits("F8_E4M3", (64, 12))}),
     ["lm_head.weight", "not held quantised", "in no other form"]),
    (lambda t: t.update({"lm_head.weight_scale": bits("F32", (64, 1))}),
     ["lm_head.weight_scale", "does not belong to the model"]),
    # Both schemes in one model.
    (lambda t: t.update({f"{Q}_scale": bits("F32", (1,))}),
     [f'"{Q}" is F8_E4M3 in the checkpoint, with one scale',
      "give quant=fp8-tensor"]),
])
def test_checkpoints_that_make_no_sense(refused, change, words):
    sentence = refused("fp8-channel", change, "vllm:quant=fp8-channel")
    for word in words:
        assert word in sentence, json.dumps(sentence)


def test_one_scale_for_what_is_fused_in_the_file(weft, tmp_path):
    """vLLM and SGLang do not agree on what becomes of it."""
    config = {
        "architectures": ["Phi3ForCausalLM"], "hidden_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": 4, "vocab_size": 64,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16"}
    tensors = fp8_checkpoint(np.random.default_rng(SEED), config, "fp8-tensor")
    name = "model.layers.0.self_attn.qkv_proj.weight"
    tensors[name] = bits("F8_E4M3", tensors[name].bits.shape)
    tensors[f"{name}_scale"] = bits("F32", (1,))
    cases.write_checkpoint(tmp_path / "checkpoint", config, tensors)
    result = weft("shard", "--checkpoint", tmp_path / "checkpoint", "--layout",
                  "vllm:quant=fp8-tensor", "--rank", 0, "--out",
                  tmp_path / "out.safetensors")
    assert result.returncode == 1
    for word in ("qkv_proj", "one scale", "give a checkpoint with a scale a"):
        assert word in result.stderr
