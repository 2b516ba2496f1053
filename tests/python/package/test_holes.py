"""Holes that counting bytes does not find: each ends in an error that names
the tensor, the box and who lacks it, before anything moves."""

import copy
from dataclasses import replace

import pytest

weft = pytest.importorskip("weft")

CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe",
    "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 4, "intermediate_size": 12,
    "vocab_size": 1003, "tie_word_embeddings": False, "num_experts": 6,
    "moe_intermediate_size": 4}
TRAINERS = ["megatron:tp=2,ep=2,etp=1,vocab_divisor=8", "fsdp:shard=3",
            "megatron:pp=2,vocab_divisor=8"]
LAYER = "model.layers.1."


def ranks_of(spec, count):
    return [weft.recipe_placement(CONFIG, spec, rank)
            for rank in range(count)]


def sources(spec="fsdp:shard=3"):
    ranks = [weft.recipe_placement(CONFIG, spec, 0)]
    return ranks + [weft.recipe_placement(CONFIG, spec, rank)
                    for rank in range(1, ranks[0].num_ranks)]


def engines(spec="vllm:tp=2,ep=2"):
    return ranks_of(spec, 2)


def faults_of(held):
    """What engine ranks say that cannot be served."""
    faults = []
    for target in engines():
        try:
            weft.plan(held, target)
        except weft.CoverageError as error:
            faults.append(str(error))
    return faults


def without(placement, name):
    """The rank as if it had never had the logical tensor."""
    less = copy.deepcopy(placement)
    (lost,) = [i for i, t in enumerate(less.tensors) if t.name == name]
    for stored in less.stored:
        stored.fragments = [f for f in stored.fragments if f.tensor != lost]
    return less


@pytest.mark.parametrize("spec", TRAINERS)
def test_all_of_a_trainer_closes(spec):
    for target in engines():
        weft.plan(sources(spec), target)


@pytest.mark.parametrize("spec", TRAINERS)
def test_one_trainer_is_missing(spec):
    held = sources(spec)
    for lost in range(len(held)):
        rest = held[:lost] + held[lost + 1:]
        faults = faults_of(rest)
        # With equal tensor parallelism one trainer may serve one engine alone.
        assert len(faults) >= (1 if spec == TRAINERS[0] else 2)
        for fault in faults:
            assert "no source holds [" in fault
            assert (f"source ranks {lost} of {len(held)} have not published"
                    in fault)


@pytest.mark.parametrize("name", [
    LAYER + "mlp.experts.4.up_proj.weight",
    LAYER + "mlp.experts.0.down_proj.weight",
    LAYER + "input_layernorm.weight", LAYER + "self_attn.k_norm.weight",
    "model.norm.weight", LAYER + "mlp.gate.weight"])
@pytest.mark.parametrize("spec", TRAINERS)
def test_one_tensor_is_missing(spec, name):
    held = [without(rank, name) if name in [t.name for t in rank.tensors]
            else rank for rank in sources(spec)]
    faults = faults_of(held)
    # An expert is on one of the two engine ranks, all else on both.
    assert len(faults) == (1 if ".experts." in name else 2)
    for fault in faults:
        assert f'of "{name}" needed by target rank' in fault


def stored(placement, name):
    (found,) = [s for s in placement.stored if s.name == name]
    return found


def test_padding_that_nobody_writes():
    # 1003 rows are stored as 1024; the last rank has 21 rows of padding.
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        target = engines()[1]
        assert stored(target, name).zero_fill == [((491, 512), (0, 8))]
        stored(target, name).zero_fill = []
        with pytest.raises(weft.WeftError) as caught:
            weft.plan(sources(), target)
        assert name in str(caught.value)
        # Elements, counted from the first: 491 rows of 8.
        assert "[3928,4096)" in str(caught.value)


def test_padding_of_a_trainer_is_no_weight():
    """Rows beyond the vocabulary hold anything; none of them is read."""
    held = sources("megatron:tp=2,ep=2,etp=1,vocab_divisor=256")
    last = stored(held[1], "embedding.word_embeddings.weight")
    assert last.shape == (512, 8)
    for target in engines("vllm:tp=2,ep=2"):
        weft.plan(held, target)
    (fragment,) = last.fragments
    assert fragment.box == ((512, 1003), (0, 8))


def test_a_double_write_does_not_hide_a_hole():
    """Gate twice and up never: as many bytes as are wanted."""
    name = LAYER + "mlp.experts.routed_experts.w13_weight"
    target = engines()[0]
    fragments = stored(target, name).fragments
    for i, fragment in enumerate(fragments):
        if "up_proj" in target.tensors[fragment.tensor].name:
            break
    gate = next(f for f in fragments if "experts.0.gate_proj" in
                target.tensors[f.tensor].name)
    fragments[i] = gate
    with pytest.raises(weft.WeftError) as caught:
        weft.plan(sources(), target)
    assert name in str(caught.value)


def test_shifted_halves_of_a_fused_tensor():
    """v lies where k does, and a hole is where v was."""
    name = LAYER + "self_attn.qkv_proj.weight"
    target = engines()[0]
    fragments = stored(target, name).fragments
    k, v = (next(f for f in fragments if f".{x}_proj." in
                 target.tensors[f.tensor].name) for x in "kv")
    fragments[fragments.index(v)] = replace(v, offset=k.offset)
    with pytest.raises(weft.WeftError) as caught:
        weft.plan(sources(), target)
    assert name in str(caught.value)


def test_ranks_of_other_shapes_are_no_sources():
    """One trainer whose table has a row less: nobody agrees on the shape."""
    held = sources()
    other = weft.recipe_placement(CONFIG | {"vocab_size": 1002},
                                  "fsdp:shard=3", 2)
    with pytest.raises(weft.WeftError) as caught:
        weft.plan([*held[:2], other], engines()[0])
    assert "model.embed_tokens.weight" in str(caught.value)


def test_the_same_rank_twice_is_no_other_rank():
    held = sources("megatron:tp=2,ep=2,etp=1,vocab_divisor=8")
    with pytest.raises(weft.WeftError):
        weft.plan([held[0], held[0]], engines()[0])
