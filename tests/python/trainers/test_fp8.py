"""Block FP8 on the way, judged by torch: the scale by the formula that CUDA
computes, the cast by torch's own float8_e4m3fn."""

import numpy as np
import pytest
import torch
import weft
from weft.layout import Fragment, Placement, ScaledTensor, StoredTensor


class Held:
    """A placement and the tensors that it is about."""

    def __init__(self, placement, memory):
        self.placement = placement
        self.memory = memory

    def tensors(self):
        return list(self.memory.values())


def expected(matrix, rule):
    """(elements, scales) of a bf16 matrix in blocks of 128 x 128."""
    rows, cols = (-(-n // 128) for n in matrix.shape)
    padded = torch.zeros(rows * 128, cols * 128)
    padded[:matrix.shape[0], :matrix.shape[1]] = matrix.float()
    blocks = padded.view(rows, 128, cols, 128)
    amax = blocks.abs().amax(dim=(1, 3)).clamp(min=1e-4)
    # On the GPU x / 448 is x times this constant.
    scales = amax * torch.tensor(0x3B124925, dtype=torch.int32).view(
        torch.float32)
    if rule == "power_of_two":
        scales = torch.exp2(torch.ceil(torch.log2(scales.double()))).float()
    elements = (blocks * (1 / scales)[:, None, :, None]).to(
        torch.float8_e4m3fn)
    elements = elements.view(torch.uint8).view(rows * 128, cols * 128)
    return elements[:matrix.shape[0], :matrix.shape[1]].contiguous(), scales


def source_of(name, whole, rank, ranks, spec="rows"):
    """Rows of `whole` as torch.chunk cuts them, through blocks."""
    shard = torch.chunk(whole, ranks)[rank].clone()
    begin = sum(len(part) for part in torch.chunk(whole, ranks)[:rank])
    placement = Placement(spec, rank, ranks)
    number = placement.tensor(name, "BF16", whole.shape)
    placement.stored.append(StoredTensor(
        "shard", "BF16", tuple(shard.shape),
        [Fragment.row_major(number, [(begin, begin + len(shard)),
                                     (0, whole.shape[1])], shard.shape,
                            (0, 0))]))
    return Held(placement, {"shard": shard})


def target_of(name, shape, rule):
    grid = tuple(-(-n // 128) for n in shape)
    placement = Placement("engine", 0, 1)
    number = placement.tensor(name, "BF16", shape)
    scales = placement.tensor(f"{name}_scale_inv", "F32", grid)
    placement.scaled.append(ScaledTensor(number, scales, rule=rule))
    for stored, dtype, tensor, extent in (("w", "F8_E4M3", number, shape),
                                          ("s", "F32", scales, grid)):
        placement.stored.append(StoredTensor(
            stored, dtype, tuple(extent),
            [Fragment.row_major(tensor, [(0, n) for n in extent], extent,
                                (0, 0))]))
    return Held(placement, {
        "w": torch.full(shape, 0xA5, dtype=torch.uint8).view(
            torch.float8_e4m3fn),
        "s": torch.full(grid, float("nan"))})


@pytest.mark.parametrize("rule, quantise", [
    ("float", ()), ("power_of_two", ()), ("float", ("w.weight",))])
def test_blocks_are_those_of_torch(rule, quantise):
    shape = (700, 392)
    whole = torch.empty(shape, dtype=torch.bfloat16)
    with weft.CatalogServer("127.0.0.1:0") as server:
        sources = [source_of("w.weight", whole, rank, 3) for rank in range(3)]
        target = target_of("w.weight", shape, rule)
        publishers = [weft.Publisher(server.address, "m", source,
                                     quantise=quantise) for source in sources]
        with weft.Receiver(server.address, "m", target) as receiver:
            for step in range(2):
                generator = torch.Generator().manual_seed(step)
                whole = (torch.randn(shape, generator=generator) *
                         torch.linspace(0.001, 3, shape[0])[:, None]).bfloat16()
                for rank, publisher in enumerate(publishers):
                    with publisher.update():
                        sources[rank].memory["shard"].copy_(
                            torch.chunk(whole, 3)[rank])
                    publisher.publish(step)
                report = receiver.refit("latest", timeout=30)
                elements, scales = expected(whole, rule)
                held = target.memory
                assert torch.equal(held["w"].view(torch.uint8), elements)
                assert np.array_equal(held["s"].numpy(), scales.numpy())
                assert report.bytes == elements.numel() + 4 * scales.numel()
                # Blocks that rows of one rank make up came quantised.
                assert (report.wire_bytes < whole.numel() * 2) == bool(quantise)
        for publisher in publishers:
            publisher.close()


def test_names_that_are_no_matrix_are_refused():
    whole = torch.zeros(256, 128, dtype=torch.bfloat16)
    source = source_of("w.weight", whole, 0, 1)
    source.placement.tensor("norm.weight", "BF16", (5,))
    with weft.CatalogServer("127.0.0.1:0") as server:
        with pytest.raises(ValueError, match="norm.weight.*only matrices"):
            weft.Publisher(server.address, "m", source,
                           quantise=["w.weight", "norm.weight"])
    assert source.placement.scaled == []
