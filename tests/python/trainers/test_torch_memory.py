"""Tensors of torch whose memory is not what they show are refused by name."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

import weft
from weft import memory


def refusal(value):
    with pytest.raises(ValueError, match='"w"') as caught:
        memory.hold("w", value)
    return str(caught.value)


def test_negated_without_a_copy():
    # Its memory was published as it lies, with the other sign.
    value = torch._neg_view(torch.arange(4.0))
    assert "resolve_neg()" in refusal(value)
    memory.hold("w", value.resolve_neg())


def test_freed_memory():
    value = torch.ones(8)
    value.untyped_storage().resize_(0)
    assert "0 of the 32 bytes" in refusal(value)
    part = torch.ones(8)[4:]
    part.untyped_storage().resize_(20)
    assert "20 of the 32 bytes" in refusal(part)
    memory.hold("w", torch.ones(8)[4:])
    memory.hold("w", torch.ones(0))


def test_a_part_of_a_distributed_tensor():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0,
                            world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        value = DTensor.from_local(torch.ones(2, 4), mesh, [Shard(0)])
        assert "DTensor" in refusal(value) and "to_local()" in refusal(value)
        memory.hold("w", value.to_local())
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("value", [torch.eye(3).to_sparse(),
                                   torch.eye(3).to_sparse_csr()])
def test_sparse(value):
    with pytest.raises(ValueError, match='"w" has the layout torch.sparse_'):
        weft.Publisher("127.0.0.1:1", "m", weft.tensors({"w": value}))


def test_others_are_told_as_before():
    assert "strides" in refusal(torch.ones(1, 4).expand(3, 4))
    assert "meta" in refusal(torch.ones(4, device="meta"))
