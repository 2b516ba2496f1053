"""Mixtures of experts: recipes against the NumPy oracle, byte for byte."""

import json

import numpy as np
import pytest

import cases
import files
import oracle
from conftest import SEED
from shard_checks import compare
from test_plain_path import done, refused
from test_processes import (assert_holds, catalog, launch,  # noqa: F401
                            refits, start)

CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 6,
    "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 2, "intermediate_size": 8,
    "vocab_size": 70, "tie_word_embeddings": False, "num_experts": 6,
    "moe_intermediate_size": 4, "decoder_sparse_step": 1,
    "mlp_only_layers": [1], "torch_dtype": "bfloat16"}


def write(tmp_path, config):
    tensors = {name: oracle.synth(name, shape, 3) for name, shape in
               oracle.logical_shapes(config).items()}
    cases.write_checkpoint(tmp_path / "checkpoint", config, tensors)
    return tmp_path / "checkpoint", tensors


@pytest.mark.parametrize("case", range(40))
def test_shard_is_the_oracles(weft, tmp_path, case):
    rng = np.random.default_rng([SEED, 5000 + case])
    config = cases.random_moe_config(rng)
    tensors = cases.random_checkpoint(rng, config)
    compare(weft, tmp_path, rng, config, tensors, cases.random_moe_spec, 3)


@pytest.mark.parametrize("case", range(8))
def test_plans_cover_every_engine_rank(weft, tmp_path, case):
    rng = np.random.default_rng([SEED, 6000 + case])
    config = cases.random_moe_config(rng) | {"torch_dtype": "bfloat16"}
    folder, tensors = write(tmp_path, config)

    def draw():
        while True:
            spec = cases.random_moe_spec(rng)
            if "dtype" not in spec and oracle.num_ranks(spec) <= 8 and (
                    cases.is_legal(config, tensors, spec)):
                return spec

    source, target = draw(), draw()
    for rank in range(oracle.num_ranks(target)):
        totals = json.loads(done(weft(
            "plan", "--config", folder, "--from", source, "--to", target,
            "--rank", rank, "--json")))["totals"]
        held = oracle.shard(config, tensors, target, rank).values()
        assert totals["dst_bytes"] + totals["zero_fill_bytes"] == sum(
            tensor.bits.nbytes for tensor in held)


@pytest.mark.parametrize("trainer,engine", [
    ("megatron:tp=2,dp=2,ep=2,etp=1", "vllm:tp=2"),
    ("megatron:pp=3,dp=2,ep=2,experts=sequential", "vllm:tp=4,ep=4"),
    ("fsdp:shard=4", "vllm:tp=2,ep=2"),
    ("fsdp:shard=3,names=hf", "megatron:tp=2,dp=3,ep=3,etp=2"),
])
def test_versions_arrive_on_every_rank(weft, start, catalog, tmp_path, trainer,
                                       engine):
    checkpoint, _ = write(tmp_path, CONFIG | {"vocab_size": 64})
    trainers, engines = launch(start, catalog, checkpoint, trainer, engine)
    for step, rank, process, _ in refits(trainers, engines, 2):
        assert_holds(weft, process, checkpoint, engine, rank, step,
                     tmp_path / "out.safetensors")


@pytest.mark.parametrize("spec,parts", [
    ("megatron:dp=4,ep=4", ["ep=4 does not divide the 6 experts"]),
    ("megatron:tp=2,ep=2,etp=2", ["ep=2 and etp=2 do not divide",
                                  "tp*cp*dp=2 ranks"]),
    ("megatron:dp=3,etp=3", ["etp=3 does not divide the width 4"]),
    ("vllm:tp=2,ep=3", ["ep=3 is not the tp*dp=2 ranks", "ep=2"]),
    ("vllm:dp=8", ["tp*dp=8 does not divide the width 4", "give ep=8"]),
])
def test_refused_with_the_values(weft, tmp_path, spec, parts):
    folder, _ = write(tmp_path, CONFIG)
    sentence = refused(weft("shard", "--checkpoint", folder, "--layout", spec,
                            "--rank", 0, "--out", tmp_path / "out"), "shard")
    for part in parts:
        assert part in sentence


def test_dense_models_have_no_expert_parallelism(weft, tmp_path):
    config = CONFIG | {"architectures": ["Qwen3ForCausalLM"]}
    folder, _ = write(tmp_path, config)
    for spec in ("megatron:dp=2,ep=2", "vllm:tp=2,ep=2"):
        sentence = refused(
            weft("shard", "--checkpoint", folder, "--layout", spec, "--rank",
                 0, "--out", tmp_path / "out"), "shard")
        assert "ep=2: the model has no experts" in sentence


def test_more_ranks_than_experts(weft, tmp_path):
    """The last engine ranks have stacks of no expert."""
    config = CONFIG | {"num_experts": 2, "num_attention_heads": 4,
                       "num_key_value_heads": 4}
    folder, tensors = write(tmp_path, config)
    out = tmp_path / "out"
    for spec, rank, count in (("vllm:tp=4,ep=4", 3, 0),
                              ("vllm:tp=4,ep=4", 1, 1),
                              ("fsdp:shard=4", 3, 0)):
        done(weft("shard", "--checkpoint", folder, "--layout", spec, "--rank",
                  rank, "--out", out))
        found = files.read(out)
        out.unlink()
        name = "model.layers.0.mlp.experts." + (
            "down_proj" if spec.startswith("fsdp") else
            "routed_experts.w2_weight")
        assert found[name].bits.shape == (count, 6, 4)
        files.assert_equal(found, oracle.shard(config, tensors, spec, rank))


def test_a_checkpoint_without_one_expert_is_refused(weft, tmp_path):
    _, tensors = write(tmp_path, CONFIG)
    lost = "model.layers.2.mlp.experts.4.up_proj.weight"
    del tensors[lost]
    cases.write_checkpoint(tmp_path / "lost", CONFIG, tensors)
    sentence = refused(
        weft("shard", "--checkpoint", tmp_path / "lost", "--layout",
             "vllm:tp=2,ep=2", "--rank", 0, "--out", tmp_path / "out"),
        "shard")
    assert f'tensor "{lost}" of shape [4,6] is missing' in sentence
