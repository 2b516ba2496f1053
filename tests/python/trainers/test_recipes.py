"""What real objects hold is what Weft's recipes say that they hold, element by
element; and a plan from real placements to an engine's closes."""

import itertools

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
weft = pytest.importorskip("weft")
if not hasattr(weft, "recipe_placement"):
    pytest.skip("weft is not built for this Python", allow_module_level=True)

import tiny_models  # noqa: E402
from placement_reader import element_offset  # noqa: E402
from rank_processes import run_ranks  # noqa: E402
from test_fsdp2 import fsdp_rank, fsdp_tp_rank  # noqa: E402

DENSE = ["llama-tied", "qwen2", "qwen3"]


def elements(placement):
    """{(stored name, element offset): (logical name, index)}."""
    held = {}
    for stored in placement.stored:
        for fragment in stored.fragments:
            name = placement.tensors[fragment.tensor].name
            for index in itertools.product(
                    *(range(*r) for r in fragment.box)):
                held[stored.name, element_offset(fragment, index)] = (
                    name, index)
    return held


def assert_agrees(ranks, config, spec):
    assert len(ranks) == ranks[0].placement.num_ranks
    for held in ranks:
        recipe = weft.recipe_placement(config, spec, held.placement.rank)
        assert recipe.num_ranks == held.placement.num_ranks
        assert {s.name: tuple(s.shape) for s in recipe.stored} == {
            s.name: s.shape for s in held.placement.stored}
        assert elements(recipe) == elements(held.placement)


def config_of(family):
    config = tiny_models.CONFIGS[family]()
    config.architectures = [type(tiny_models.build(family)).__name__]
    return config.to_dict()


@pytest.mark.parametrize("family", DENSE)
@pytest.mark.parametrize("num_ranks", [1, 3])
def test_fsdp_agrees(family, num_ranks, tmp_path):
    ranks = run_ranks(fsdp_rank, num_ranks, tmp_path, family, num_ranks)
    spec = ranks[0].placement.layout_spec
    assert_agrees(ranks, config_of(family), spec)


@pytest.mark.parametrize("family", DENSE)
def test_fsdp_over_tensor_parallelism_agrees(family, tmp_path):
    ranks = run_ranks(fsdp_tp_rank, 4, tmp_path, family)
    assert_agrees(ranks, config_of(family), ranks[0].placement.layout_spec)


@pytest.mark.parametrize("family", DENSE)
def test_plan_to_an_engine_closes(family, tmp_path):
    ranks = run_ranks(fsdp_tp_rank, 4, tmp_path, family)
    for rank in range(2):
        target = weft.recipe_placement(config_of(family), "vllm:tp=2", rank)
        weft.plan([r.placement for r in ranks], target)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tp,pp,tied", [(2, 1, True), (1, 2, True),
                                        (2, 2, False)])
def test_megatron_agrees(family, tp, pp, tied, tmp_path):
    pytest.importorskip("megatron.core")
    import megatron_models
    from test_megatron import megatron_rank
    config = megatron_models.hf_config(family, tied=tied)
    ranks = run_ranks(megatron_rank, tp * pp, tmp_path, config, tp, pp)
    config["architectures"] = [
        {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[family] +
        "ForCausalLM"]
    # 48 rows of vocabulary either way.
    assert_agrees(ranks, config, f"megatron:tp={tp},pp={pp},impl=local,"
                                 f"vocab_divisor={16 // tp}")
    for rank in range(2):
        target = weft.recipe_placement(config, "vllm:tp=2", rank)
        weft.plan([r.placement for r in ranks], target)


@pytest.mark.parametrize("family,layers,num_ranks,degrees,spec", [
    ("qwen3_moe", 2, 4, (2, 1, 1, 1, None, 2, 1),
     "tp=2,dp=2,ep=2,etp=1,vocab_divisor=8"),
    ("qwen3_moe", 2, 4, (2, 1, 1, 1, None, 2, 2),
     "tp=2,dp=2,ep=2,vocab_divisor=8"),
    ("mixtral", 3, 2, (1, 2, 1, 1, 1), "pp=2,first=1,vocab_divisor=16"),
    ("qwen3_moe", 4, 2, (1, 2, 2), "pp=2,vpp=2,vocab_divisor=16"),
])
def test_megatron_with_experts_agrees(family, layers, num_ranks, degrees, spec,
                                      tmp_path):
    """Experts on a grid of their own, uneven stages, virtual stages."""
    pytest.importorskip("megatron.core")
    import megatron_models
    from test_megatron import megatron_rank
    config = megatron_models.hf_config(family, layers=layers)
    ranks = run_ranks(megatron_rank, num_ranks, tmp_path, config, *degrees)
    config["architectures"] = [{"qwen3_moe": "Qwen3Moe",
                                "mixtral": "Mixtral"}[family] + "ForCausalLM"]
    assert_agrees(ranks, config, f"megatron:{spec},impl=local,"
                                 f"experts=sequential")
    for rank in range(2):
        target = weft.recipe_placement(config, "vllm:tp=2,ep=2", rank)
        weft.plan([r.placement for r in ranks], target)
