"""What real vLLM ranks hold of FP8 checkpoints with a scale a row or a matrix
after their own loader, before a kernel changes anything, is what `weft shard`
writes for them."""

import importlib
import json

import numpy as np
import pytest

import files
import oracle
from fp8_cases import fp8_checkpoint
from loaded_ranks import Case, import_engine, loaded
from rank_processes import run_ranks
from test_loaded_models import COMMON, CONFIGS

KINDS = {
    "llama": COMMON | {"architectures": ["LlamaForCausalLM"]},
    "qwen3_moe": CONFIGS["qwen3_moe"], "phi3": CONFIGS["phi3"]}
PAIRS = [("llama", "fp8-channel", "vllm:tp=2"),
         ("llama", "fp8-tensor", "vllm:tp=2"),
         ("qwen3_moe", "fp8-channel", "vllm:tp=2"),
         ("qwen3_moe", "fp8-tensor", "vllm:tp=2,ep=2"),
         ("phi3", "fp8-channel", "vllm:tp=2")]
FUSED = {"qkv_proj.weight": 8 * 32, "gate_up_proj.weight": 2 * 96}


def quantization(quant):
    """quantization_config as llm-compressor writes it."""
    strategy = quant.removeprefix("fp8-")
    activations = {"channel": "token", "tensor": "tensor"}[strategy]
    common = {"num_bits": 8, "type": "float", "symmetric": True}
    return {
        "quant_method": "compressed-tensors", "format": "float-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head", "re:.*mlp.gate$"], "config_groups": {"group_0": {
            "targets": ["Linear"],
            "weights": common | {"strategy": strategy, "dynamic": False},
            "input_activations": common | {"strategy": activations,
                                           "dynamic": True}}}}


def loaded_fp8(cases):
    """loaded() without kernels: a CPU has none for these."""
    folder = "vllm.model_executor.layers.quantization.compressed_tensors"
    linear = importlib.import_module(
        f"{folder}.schemes.compressed_tensors_w8a8_fp8")
    experts = importlib.import_module(
        f"{folder}.compressed_tensors_moe.compressed_tensors_moe_w8a8_fp8")
    linear.init_fp8_linear_kernel = lambda **options: None
    linear.expose_input_quant_key = lambda *layer_and_kernel: None
    experts.select_fp8_moe_backend = lambda **options: (None, None)
    return loaded(cases)


def write(folder, kind, quant, seed):
    config = {"model_type": kind} | KINDS[kind] | {
        "quantization_config": quantization(quant)}
    rng = np.random.default_rng(seed)
    tensors = fp8_checkpoint(rng, config, quant)
    for name, rows in FUSED.items():  # Phi-3's are in the file
        for held in [n for n in tensors if n.endswith(name)]:
            assert tensors[held].bits.shape[0] == rows
            tensors[held] = oracle.Bits("F8_E4M3", rng.integers(
                0, 256, tensors[held].bits.shape).astype(np.uint8))
            tensors[f"{held}_scale"] = oracle.Bits("F32", rng.uniform(
                0.5, 2, (rows, 1)).astype(np.float32).view(np.uint32))
    # vLLM's loader takes no others: [N, 1], and [1] or [].
    for name, tensor in tensors.items():
        if name.endswith("_scale"):
            shape = (-1, 1) if quant == "fp8-channel" else (
                tensor.bits.shape[:1])
            tensors[name] = tensor._replace(bits=tensor.bits.reshape(shape))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    files.write(folder / "model.safetensors", tensors)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """{pair: [{parameter: Bits} of each rank]} and the folder of checkpoints."""
    root = tmp_path_factory.mktemp("fp8")
    for seed, (kind, quant, _) in enumerate(PAIRS):
        write(root / kind / quant, kind, quant, seed)
    import_engine(c["architectures"][0] for c in KINDS.values())
    results = run_ranks(loaded_fp8, 2, root, [
        Case(str(root / kind / quant), spec) for kind, quant, spec in PAIRS],
        deadline_seconds=300)
    return {pair: [of_rank[i] for of_rank in results]
            for i, pair in enumerate(PAIRS)}, root


@pytest.mark.parametrize("kind,quant,spec", PAIRS)
def test_shard_is_what_the_engine_loads(made, weft, tmp_path, kind, quant,
                                        spec):
    """But for scales of queries and of the KV cache, which this file does not
    have and vLLM drops when loading is done."""
    ranks, root = made
    for rank, held in enumerate(ranks[kind, quant, spec]):
        held = {name: tensor for name, tensor in held.items()
                if ".self_attn.attn." not in name}
        out = tmp_path / f"{rank}.safetensors"
        result = weft("shard", "--checkpoint", root / kind / quant, "--layout",
                      f"{spec},quant={quant}", "--rank", rank, "--out", out)
        assert result.returncode == 0, result.stderr
        files.assert_equal(files.read(out), held)
