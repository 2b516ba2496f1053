"""FP8 by block, by row and by tensor, scales in every form: what ranks hold and
what refits bring, against the NumPy oracle, byte for byte."""

import json

import numpy as np
import pytest

import cases
import family_cases
import files
import oracle
import oracle_fp8
from conftest import SEED
from test_plain_path import done
from test_processes import (catalog, launch, saved_refits,  # noqa: F401
                            start)

FAMILIES = ("qwen3", "mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2",
            "deepseek_v3", "glm4_moe", "glm_moe_dsa", "gemma3")


def checkpoint_of(rng, config):
    """Finite values, and of each matrix another size."""
    dtype = {"bfloat16": "BF16", "float16": "F16",
             "float32": "F32"}[config["torch_dtype"]]
    tensors = {}
    for name, shape in oracle.logical_shapes(config, False).items():
        factor = 2.0 ** rng.integers(-6, 6) * rng.uniform(1, 2)
        x = (rng.standard_normal(shape) * factor).astype(np.float32)
        tensors[name] = oracle.cast(
            oracle.Bits("F32", x.view(np.uint32)),
            oracle.dtype_in_file(name) or dtype)
    return tensors


def compare(weft, tmp_path, config, tensors, spec, step):
    folder = tmp_path / f"checkpoint of {spec.partition(':')[0]}"
    out = tmp_path / "out.safetensors"
    cases.write_checkpoint(folder, config, tensors)
    stepped = {n: oracle.step(t, step) for n, t in tensors.items()}
    for rank in range(oracle.num_ranks(spec)):
        case_args = ("--checkpoint", folder, "--layout", spec, "--rank", rank,
                     "--step", step)
        out.unlink(missing_ok=True)
        done(weft("shard", *case_args, "--out", out))
        files.assert_equal(files.read(out),
                           oracle_fp8.shard(config, stepped, spec, rank))
        if rank == 0:
            done(weft("verify", out, *case_args))


@pytest.mark.parametrize("quant", [
    "fp8-channel", "fp8-channel,scales=f32-pow2", "fp8-tensor",
    "fp8-tensor,scales=f32-pow2"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scales_of_rows_and_of_tensors(weft, tmp_path, family, quant):
    rng = np.random.default_rng([SEED, *family.encode(), *quant.encode()])
    engines = [("vllm", family_cases.random_spec)]
    if family in family_cases.SGLANG:
        engines.append(("sglang", family_cases.random_sglang_spec))
    for engine, draw in engines:
        while True:
            config = family_cases.random_config(rng, family)
            config.pop("num_nextn_predict_layers", None)
            tensors = checkpoint_of(rng, config)
            spec = draw(rng, config, tmp_path)
            if spec.startswith(engine) and "dtype" not in spec and (
                    cases.is_legal(config, tensors, spec)):
                break
        more = f"quant={quant}"
        spec += ("," if ":" in spec else ":") + more
        compare(weft, tmp_path, config, tensors, spec, int(rng.integers(3)))


def block_config(rng, family):
    """A model whose parts are whole blocks, if not along what is reduced."""
    def pick(*values):
        return int(rng.choice(values))

    config = {
        "architectures": [family_cases.FAMILIES[family]],
        "hidden_size": pick(128, 200, 385, 513),
        "num_hidden_layers": 1 if family != "deepseek_v3" else 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 128,
        "intermediate_size": 256, "vocab_size": 64,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16"}
    if family == "qwen3_moe":
        config |= {"num_experts": 2, "moe_intermediate_size": 256}
    if family == "deepseek_v3":
        config |= {
            "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": pick(128, 256),
            "kv_lora_rank": 128, "qk_nope_head_dim": 64,
            "qk_rope_head_dim": pick(64, 32), "v_head_dim": 64,
            "n_routed_experts": 2, "moe_intermediate_size": 256,
            "n_shared_experts": 1, "num_experts_per_tok": 1,
            "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
            "topk_method": "noaux_tc", "scoring_func": "sigmoid"}
        # Heads of 96 or 128 rows, four of them.
        config.pop("head_dim")
    return config


@pytest.mark.parametrize("scales", ["f32", "f32-pow2", "ue8m0",
                                    "ue8m0-packed"])
@pytest.mark.parametrize("family,spec", [
    ("qwen3", "vllm:tp=2"), ("qwen3_moe", "vllm:tp=2,ep=2"),
    ("qwen3_moe", "vllm:tp=2"), ("qwen3_moe", "sglang:tp=2"),
    ("deepseek_v3", "vllm"), ("deepseek_v3", "sglang:tp=2,ep=2,dp=2")])
def test_scales_of_blocks(weft, tmp_path, family, spec, scales):
    rng = np.random.default_rng([SEED, *family.encode(), *scales.encode()])
    config = block_config(rng, family)
    spec += ("," if ":" in spec else ":") + f"quant=fp8-block,scales={scales}"
    compare(weft, tmp_path, config, checkpoint_of(rng, config), spec, 1)


@pytest.mark.parametrize("trainer,engine", [
    ("fsdp:shard=3", "vllm:tp=2,quant=fp8-channel"),
    ("fsdp:shard=3,quant=fp8-channel", "vllm:tp=2,quant=fp8-channel"),
    ("megatron:tp=2,vocab_divisor=8,quant=fp8-channel",
     "vllm:tp=2,quant=fp8-channel"),
    ("fsdp:shard=2", "sglang:tp=2,quant=fp8-tensor"),
    ("hf:quant=fp8-tensor", "vllm:tp=2,quant=fp8-tensor"),
    ("fsdp:shard=3", "vllm:tp=2,quant=fp8-block,scales=ue8m0"),
    ("fsdp:shard=3,quant=fp8-block,scales=f32-pow2",
     "vllm:tp=2,quant=fp8-block,scales=ue8m0"),
    ("fsdp:shard=3,quant=fp8-block,scales=f32-pow2",
     "vllm:tp=2,quant=fp8-block,scales=ue8m0-packed"),
    # By another rule: what is published quantised is of no use here.
    ("fsdp:shard=3,quant=fp8-block",
     "vllm:tp=2,quant=fp8-block,scales=ue8m0-packed"),
])
@pytest.mark.parametrize("transport", ["shm", "ucx"])
def test_versions_arrive_quantised(start, catalog, tmp_path,  # noqa: F811
                                   trainer, engine, transport):
    rng = np.random.default_rng([SEED, *trainer.encode(), *engine.encode()])
    config = block_config(rng, "qwen3_moe")
    tensors = checkpoint_of(rng, config)
    checkpoint = tmp_path / "checkpoint"
    cases.write_checkpoint(checkpoint, config, tensors)
    processes = launch(start, catalog, checkpoint, trainer, engine, transport)
    for step, rank, held in saved_refits(*processes, 2,
                                         tmp_path / "out.safetensors"):
        stepped = {n: oracle.step(t, step) for n, t in tensors.items()}
        files.assert_equal(held,
                           oracle_fp8.shard(config, stepped, engine, rank))


@pytest.mark.parametrize("family,spec,words", [
    # One scale in the file, three parts in the engine.
    ("phi3", "vllm:quant=fp8-tensor", ["qkv_proj", "one scale",
                                       "quant=fp8-channel"]),
    ("qwen3", "vllm:quant=fp8-channel,scales=ue8m0",
     ["scales=ue8m0", "of blocks", "fp8-channel"]),
    ("qwen3", "vllm:scales=ue8m0", ["give quant="]),
    ("qwen3", "fsdp:quant=fp8-block,scales=ue8m0",
     ["scales=ue8m0", "f32, f32-pow2"]),
])
def test_what_cannot_be_held_is_refused(weft, tmp_path, family, spec, words):
    rng = np.random.default_rng(SEED)
    config = family_cases.random_config(rng, family)
    folder = tmp_path / "checkpoint"
    cases.write_checkpoint(folder, config, checkpoint_of(rng, config))
    result = weft("shard", "--checkpoint", folder, "--layout", spec, "--rank",
                  0, "--out", tmp_path / "out.safetensors")
    assert result.returncode == 1
    for word in words:
        assert word in result.stderr, json.dumps(result.stderr)
