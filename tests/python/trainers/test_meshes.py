"""Meshes beyond the usual: the rank and the layout that a source states, and
pieces that lie apart."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import (FullyShardedDataParallel,  # noqa: E402
                                    fully_shard)
from torch.distributed.tensor import Replicate, Shard  # noqa: E402
from torch.distributed.tensor import distribute_tensor  # noqa: E402
from torch.distributed.tensor.parallel import (  # noqa: E402
    ColwiseParallel, parallelize_module)
from torch.distributed.tensor.placement_types import (  # noqa: E402
    _StridedShard)

import weft.torch  # noqa: E402
from placement_reader import Rank, assemble, assert_same  # noqa: E402
from rank_processes import run_ranks  # noqa: E402


def rank_of(source):
    source.check()
    return Rank(source.placement, [t.clone() for t in source.tensors()])


def counting_linear(rows, columns=3):
    linear = torch.nn.Linear(columns, rows, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.arange(float(rows * columns)).reshape(
            rows, columns))
    return linear


def expected(rows, columns=3):
    return torch.arange(float(rows * columns)).reshape(rows, columns)


def replicas_rank():
    model = torch.nn.parallel.DistributedDataParallel(counting_linear(4))
    return rank_of(weft.torch.fsdp2(model))


def test_data_parallel_ranks_are_replicas(tmp_path):
    ranks = run_ranks(replicas_rank, 2, tmp_path)
    assert_same(assemble(ranks), {"weight": expected(4)})
    assert ranks[0].placement.layout_spec == "fsdp:replicate=2"


def tensor_parallel_rank():
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("anything",))
    return rank_of(weft.torch.fsdp2(
        parallelize_module(counting_linear(5), mesh, ColwiseParallel())))


def test_tensor_parallelism_alone(tmp_path):
    ranks = run_ranks(tensor_parallel_rank, 2, tmp_path)
    assert_same(assemble(ranks), {"weight": expected(5)})
    assert ranks[0].placement.layout_spec == "fsdp:tp=2"


def pipeline_rank():
    """Stages of a pipeline, each sharded over its own two ranks; the stage is
    the slowest dimension of the mesh or the fastest."""
    results = []
    for names in (("pp", "dp"), ("dp", "pp")):
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=names)
        stage = mesh.get_local_rank("pp")
        model = torch.nn.ModuleDict({str(stage): counting_linear(5 + stage)})
        fully_shard(model[str(stage)], mesh=mesh["dp"])
        results.append(rank_of(weft.torch.fsdp2(model)))
    return results


def test_stages_of_a_pipeline_are_ranks_of_one_mesh(tmp_path):
    results = run_ranks(pipeline_rank, 4, tmp_path)
    for way, order in ((0, [0, 1, 2, 3]), (1, [0, 2, 1, 3])):
        ranks = [result[way] for result in results]
        assert_same(assemble(ranks), {"0.weight": expected(5),
                                      "1.weight": expected(6)})
        assert ranks[0].placement.layout_spec == "fsdp:shard=2,pp=2"
        assert [r.placement.rank for r in ranks] == order


def unused_dimension_rank():
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    return rank_of(weft.torch.fsdp2(
        fully_shard(counting_linear(5), mesh=mesh["dp"])))


def test_a_dimension_that_cuts_nothing_makes_replicas(tmp_path):
    ranks = run_ranks(unused_dimension_rank, 4, tmp_path)
    assert_same(assemble(ranks), {"weight": expected(5)})
    assert ranks[0].placement.layout_spec == "fsdp:shard=2,replicate=2"


PLACEMENTS = {
    "columns then rows": [Shard(1), Shard(0)],
    "rows twice": [Shard(0), Shard(0)],
    "negative dimension": [Shard(-1), Replicate()],
    # Cut into three parts, of each of which a rank has a half: the pieces of
    # a rank lie apart in the checkpoint, one behind the other in memory.
    "strided alone": [_StridedShard(0, split_factor=3), Replicate()],
    "strided, then columns": [_StridedShard(0, split_factor=2), Shard(1)],
}


def placements_rank(key, shape):
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))
    whole = expected(*shape)
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(
        distribute_tensor(whole, mesh, PLACEMENTS[key]))
    assert torch.equal(model.weight.full_tensor(), whole)
    return rank_of(weft.torch.fsdp2(model))


# torch itself distributes only even strided shards.
@pytest.mark.parametrize("key,shape", [
    (key, shape) for key in PLACEMENTS for shape in ((12, 4), (11, 5), (3, 1))
    if "strided" not in key or shape == (12, 4)])
def test_placements(key, shape, tmp_path):
    ranks = run_ranks(placements_rank, 4, tmp_path, key, shape)
    assert_same(assemble(ranks), {"weight": expected(*shape)})


def flat_rank():
    # FSDP1 asks for an accelerator; being told apart is all that matters.
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    model[0].__class__ = type("Flat", (FullyShardedDataParallel,), {})
    with pytest.raises(weft.torch.UnsupportedTensors) as caught:
        weft.torch.fsdp2(model)
    return str(caught.value)


def test_fsdp1_is_refused(tmp_path):
    assert run_ranks(flat_rank, 1, tmp_path) == [
        "FSDP1 (FullyShardedDataParallel) is not supported, use fully_shard: "
        "0"]
