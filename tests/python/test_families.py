"""Families with latent attention, experts of all kinds, Mamba and gated delta
nets: recipes against the NumPy oracle, byte for byte."""

import json

import numpy as np
import pytest

import cases
import family_cases
import oracle
from conftest import SEED
from shard_checks import assert_equal, compare
from test_plain_path import done
from test_processes import (catalog, launch, saved_refits,  # noqa: F401
                            start)


def compare_random(weft, tmp_path, rng, family, draw, count):
    """Ranks of random layouts of a random model, byte for byte."""
    config = family_cases.random_config(rng, family)
    tensors = family_cases.random_checkpoint(rng, config)
    compare(weft, tmp_path, rng, config, tensors,
            lambda rng: draw(rng, config, tmp_path), count)


def random_of(family, first, case):
    number = list(family_cases.FAMILIES).index(family)
    return np.random.default_rng([SEED, first + 100 * number + case])


@pytest.mark.parametrize("family", family_cases.FAMILIES)
@pytest.mark.parametrize("case", range(8))
def test_shard_is_the_oracles(weft, tmp_path, family, case):
    compare_random(weft, tmp_path, random_of(family, 7000, case), family,
            family_cases.random_spec, 3)


@pytest.mark.parametrize("family", family_cases.SGLANG)
@pytest.mark.parametrize("case", range(4))
def test_sglang_is_the_oracles(weft, tmp_path, family, case):
    compare_random(weft, tmp_path, random_of(family, 11000, case), family,
            family_cases.random_sglang_spec, 3)


@pytest.mark.parametrize("family,changes,spec,said", [
    ("deepseek_v3", {"tie_word_embeddings": True}, "vllm",
     "tie_word_embeddings=true: vLLM does not tie"),
    ("nemotron_h", {"tie_word_embeddings": True}, "vllm",
     "tie_word_embeddings=true: vLLM does not tie"),
    ("gpt_oss", {"num_local_experts": 4}, "vllm:dp=3,ep=3",
     "ep=3 does not divide the 4 experts"),
    ("gpt_oss", {"num_local_experts": 4}, "vllm:dp=2,ep=2,redundant=2",
     "vLLM places the experts of GPT-OSS in one way only"),
    ("qwen2_moe", {"qkv_bias": False}, "vllm", "qkv_bias=false: vLLM gives"),
    ("qwen2_moe", {"num_experts": 4}, "vllm:dp=2,ep=2,redundant=2",
     "vLLM has no copies of the experts of Qwen2-MoE"),
])
def test_what_vllm_leaves_unset_is_refused(weft, tmp_path, family, changes,
                                           spec, said):
    """Seen in a real vLLM 0.32: it loads such models without an error, with
    parameters that nobody filled or experts in the wrong places."""
    config = family_cases.random_config(
        random_of(family, 13000, 0), family) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    result = weft("plan", "--config", tmp_path, "--from", "hf", "--to", spec)
    assert result.returncode == 1
    assert said in result.stderr


def legal_case(rng, family, specs):
    """A random model that all of the layouts take: (config, tensors). The
    made-up steps of a trainer change values in the file's own dtypes."""
    for _ in range(500):
        config = family_cases.random_config(rng, family)
        tensors = family_cases.random_checkpoint(rng, config, is_usual=True)
        if all(cases.is_legal(config, tensors, spec) for spec in specs):
            return config, tensors
    raise AssertionError(f"no {family} for {specs}")


@pytest.mark.parametrize("family,trainer,engine", [
    ("deepseek_v3", "megatron:tp=2,ep=2,etp=1,vocab_divisor=8",
     "vllm:tp=2,ep=2"),
    ("deepseek_v3", "fsdp:shard=3", "vllm:tp=2,dp=2,ep=4"),
    ("glm4_moe", "megatron:pp=2,dp=2,ep=2,vocab_divisor=8", "vllm:tp=2"),
    ("glm_moe_dsa", "fsdp:shard=4,ep=2", "vllm:tp=2,ep=2"),
    ("gpt_oss", "megatron:dp=2,ep=2,etp=1,vocab_divisor=8", "vllm:tp=2"),
    ("gpt_oss", "fsdp:shard=3", "vllm:tp=2,ep=2"),
    ("nemotron_h", "fsdp:shard=3", "vllm:tp=2"),
    ("nemotron_h", "megatron:tp=2,ep=2,etp=1,vocab_divisor=8",
     "vllm:tp=2,ep=2"),
    ("qwen3_next", "fsdp:shard=3", "vllm:tp=2,ep=2"),
    ("qwen3_moe", "megatron:pp=2,vpp=2,vocab_divisor=8", "vllm:tp=2"),
    ("phi3", "fsdp:shard=3", "vllm:tp=2"),
    ("gemma3", "megatron:tp=2,vocab_divisor=8", "vllm:tp=2"),
])
def test_versions_arrive_on_every_rank(start, catalog, tmp_path,  # noqa: F811
                                       family, trainer, engine):
    """Weights change between two refits, and memory is poisoned before each;
    what then lies in it is the oracle's, also where a value is computed."""
    rng = np.random.default_rng([SEED, *family.encode(), *trainer.encode()])
    config, tensors = legal_case(rng, family, (trainer, engine))
    checkpoint = tmp_path / "checkpoint"
    cases.write_checkpoint(checkpoint, config, tensors)
    processes = launch(start, catalog, checkpoint, trainer, engine)
    for step, rank, held in saved_refits(*processes, 2,
                                         tmp_path / "out.safetensors"):
        stepped = {n: oracle.step(t, step) for n, t in tensors.items()}
        assert_equal(held, oracle.shard(config, stepped, engine, rank))


@pytest.mark.parametrize("family", family_cases.FAMILIES)
@pytest.mark.parametrize("case", range(2))
def test_plans_cover_every_engine_rank(weft, tmp_path, family, case):
    rng = random_of(family, 9000, case)
    config = family_cases.random_config(rng, family) | {
        "torch_dtype": "bfloat16"}
    # What a config alone tells: usual dtypes, and no further tokens.
    tensors = {name: oracle.synth(name, shape, 1,
                                  oracle.dtype_in_file(name) or "BF16")
               for name, shape in
               oracle.logical_shapes(config, is_predicting=False).items()}
    folder = tmp_path / "checkpoint"
    cases.write_checkpoint(folder, config, tensors)

    def draw(frameworks):
        while True:
            spec = family_cases.random_spec(rng, config, tmp_path)
            if "dtype" not in spec and oracle.num_ranks(spec) <= 8 and (
                    spec.startswith(frameworks) and
                    cases.is_legal(config, tensors, spec)):
                return spec

    source = draw(("hf", "fsdp", "megatron"))
    target = draw(("hf", "fsdp", "megatron", "vllm"))
    for rank in range(oracle.num_ranks(target)):
        totals = json.loads(done(weft(
            "plan", "--config", folder, "--from", source, "--to", target,
            "--rank", rank, "--json")))["totals"]
        held = oracle.shard(config, tensors, target, rank).values()
        assert totals["dst_bytes"] + totals["zero_fill_bytes"] == sum(
            tensor.bits.nbytes for tensor in held)


@pytest.mark.parametrize("family,embedding", [
    ("nemotron_h", "backbone.embeddings.weight"),
    ("qwen3_next", "model.embed_tokens.weight"),
    ("gemma2", "model.embed_tokens.weight")])
def test_a_head_that_is_no_copy(weft, tmp_path, family, embedding):
    """Of tied embeddings a head is redundant only if it is the embedding; that
    of Nemotron-H, which has another name, was dropped unseen."""
    rng = random_of(family, 19000, 0)
    config = family_cases.random_config(rng, family) | {
        "tie_word_embeddings": True}
    tensors = family_cases.random_checkpoint(rng, config, is_usual=True)
    tensors.pop("lm_head.weight", None)
    for step in range(2):
        head = oracle.step(tensors[embedding], step)
        cases.write_checkpoint(tmp_path / str(step), config,
                               tensors | {"lm_head.weight": head})
        out = tmp_path / f"{step}.safetensors"
        result = weft("shard", "--checkpoint", tmp_path / str(step), "--layout",
                      "hf", "--rank", 0, "--out", out)
        assert result.returncode == step, result.stderr
        assert out.exists() == (step == 0)
    for word in ('"lm_head.weight"', f'"{embedding}"', "tie_word_embeddings"):
        assert word in result.stderr
