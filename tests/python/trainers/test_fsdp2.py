"""weft.torch.fsdp2 on real modules in real processes, against the files that
transformers writes of the same model."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402
from torch.distributed.tensor import (Replicate, Shard,  # noqa: E402
                                      distribute_tensor)
from torch.distributed.tensor.parallel import (  # noqa: E402
    ColwiseParallel, RowwiseParallel, parallelize_module)

import tiny_models  # noqa: E402
import weft.torch  # noqa: E402
from placement_reader import Rank, assemble, assert_same  # noqa: E402
from rank_processes import run_ranks  # noqa: E402

FAMILIES = list(tiny_models.CONFIGS)


def what_is_held(source):
    source.check()
    return Rank(source.placement, [t.clone() for t in source.tensors()])


def shard_layers(model, mesh, **options):
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def tensor_parallel(model, mesh):
    plan = {"model.embed_tokens": RowwiseParallel(input_layouts=Replicate()),
            "lm_head": ColwiseParallel(output_layouts=Replicate())}
    for i in range(len(model.model.layers)):
        for part in ("q_proj", "k_proj", "v_proj"):
            plan[f"model.layers.{i}.self_attn.{part}"] = ColwiseParallel()
        plan[f"model.layers.{i}.self_attn.o_proj"] = RowwiseParallel()
        for part in ("gate_proj", "up_proj"):
            plan[f"model.layers.{i}.mlp.{part}"] = ColwiseParallel()
        plan[f"model.layers.{i}.mlp.down_proj"] = RowwiseParallel()
    parallelize_module(model, mesh, plan)
    if model.config.tie_word_embeddings:
        # Each of the two got a DTensor of its own.
        model.lm_head.weight = model.model.embed_tokens.weight
    return model


# ---- what a rank does -------------------------------------------------------


def fsdp_rank(family, num_ranks):
    mesh = init_device_mesh("cpu", (num_ranks,))
    model = shard_layers(tiny_models.build(family), mesh)
    return what_is_held(weft.torch.fsdp2(model))


def hsdp_rank(family):
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("rep", "data"))
    model = shard_layers(tiny_models.build(family), mesh)
    return what_is_held(weft.torch.fsdp2(model))


def fsdp_tp_rank(family, sizes=(2, 2), names=("dp", "tp")):
    mesh = init_device_mesh("cpu", sizes, mesh_dim_names=names)
    model = tensor_parallel(tiny_models.build(family), mesh["tp"])
    shard_layers(model, mesh[names[:-1]] if len(names) > 2 else mesh["dp"])
    return what_is_held(weft.torch.fsdp2(model))


def experts_rank():
    """Expert parallelism as DTensor trainers do it: experts first, then FSDP
    over what is left of dimension 0."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "ep"))
    model = tiny_models.build("qwen3-moe")
    for layer in model.model.layers:
        for name, parameter in list(layer.mlp.experts.named_parameters()):
            layer.mlp.experts.register_parameter(name, torch.nn.Parameter(
                distribute_tensor(parameter.data, mesh["ep"], [Shard(0)])))
    shard_layers(model, mesh["dp"])
    return what_is_held(weft.torch.fsdp2(model))


def linear_rank(rows, dp, tp):
    mesh = init_device_mesh("cpu", (dp, tp), mesh_dim_names=("dp", "tp"))
    linear = torch.nn.Linear(3, rows, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.arange(rows * 3.0).reshape(rows, 3))
    fully_shard(parallelize_module(linear, mesh["tp"], ColwiseParallel()),
                mesh=mesh["dp"])
    return what_is_held(weft.torch.fsdp2(linear))


def other_dimension_rank():
    mesh = init_device_mesh("cpu", (2,))
    model = shard_layers(tiny_models.build("qwen2"), mesh,
                         shard_placement_fn=lambda p: Shard(p.ndim - 1))
    return what_is_held(weft.torch.fsdp2(model))


# ---- tests ------------------------------------------------------------------


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_fsdp(family, num_ranks, tmp_path):
    ranks = run_ranks(fsdp_rank, num_ranks, tmp_path, family, num_ranks)
    assert_same(assemble(ranks), tiny_models.checkpoint(family, tmp_path))
    assert ranks[0].placement.layout_spec == (
        "fsdp" if num_ranks == 1 else f"fsdp:shard={num_ranks}")


def test_empty_shards(tmp_path):
    ranks = run_ranks(fsdp_rank, 5, tmp_path, "qwen3-moe", 5)
    # Four experts in chunks of one: the fifth rank has none.
    empty = {s.name for s in ranks[4].placement.stored if 0 in s.shape}
    assert "model.layers.0.mlp.experts.gate_up_proj" in empty
    assert_same(assemble(ranks), tiny_models.checkpoint("qwen3-moe", tmp_path))


@pytest.mark.parametrize("family", ["llama-tied", "qwen3-moe"])
def test_hsdp(family, tmp_path):
    ranks = run_ranks(hsdp_rank, 4, tmp_path, family)
    assert_same(assemble(ranks), tiny_models.checkpoint(family, tmp_path))
    assert ranks[0].placement.layout_spec == "fsdp:shard=2,replicate=2"
    # Replicate is the slowest axis: ranks 0 and 2 hold the same.
    for a, b in ((0, 2), (1, 3)):
        assert ranks[a].placement.stored == ranks[b].placement.stored


@pytest.mark.parametrize("family", ["llama-tied", "qwen2", "qwen3"])
def test_fsdp_over_tensor_parallelism(family, tmp_path):
    ranks = run_ranks(fsdp_tp_rank, 4, tmp_path, family)
    assert_same(assemble(ranks), tiny_models.checkpoint(family, tmp_path))
    assert ranks[0].placement.layout_spec == "fsdp:shard=2,tp=2"
    # 37 rows: tensor parallelism cuts 19 and 18, then FSDP 10, 9, 9, 9; the
    # second process is the second tensor-parallel rank.
    boxes = [next(f.box[0] for s in r.placement.stored for f in s.fragments
                  if s.name == "model.embed_tokens.weight") for r in ranks]
    assert boxes == [(0, 10), (19, 28), (10, 19), (28, 37)]
    assert [r.placement.rank for r in ranks] == [0, 1, 2, 3]


def test_hsdp_over_tensor_parallelism(tmp_path):
    ranks = run_ranks(fsdp_tp_rank, 8, tmp_path, "qwen2", (2, 2, 2),
                      ("rep", "dp", "tp"))
    assert_same(assemble(ranks), tiny_models.checkpoint("qwen2", tmp_path))
    assert ranks[0].placement.layout_spec == "fsdp:shard=2,replicate=2,tp=2"


def test_expert_parallelism(tmp_path):
    ranks = run_ranks(experts_rank, 4, tmp_path)
    assert_same(assemble(ranks), tiny_models.checkpoint("qwen3-moe", tmp_path))


def test_sharding_of_the_last_dimension(tmp_path):
    ranks = run_ranks(other_dimension_rank, 2, tmp_path)
    assert_same(assemble(ranks), tiny_models.checkpoint("qwen2", tmp_path))


@pytest.mark.parametrize("rows,dp,tp", [(9, 4, 2), (10, 4, 2), (5, 3, 2),
                                        (3, 2, 4), (1, 2, 2)])
def test_uneven_rows_lie_where_construction_put_them(rows, dp, tp, tmp_path):
    # With 9 rows, dp 4, tp 2, DTensor's own metadata says that rank (3, 0)
    # has row 8; the memory of rank (3, 1) has it.
    ranks = run_ranks(linear_rank, dp * tp, tmp_path, rows, dp, tp)
    assert_same(assemble(ranks),
                {"weight": torch.arange(rows * 3.0).reshape(rows, 3)})
