"""The digit probe and what is carried over to packed memory, against the
packing itself applied to random weights."""

import os
import time

import numpy as np
import pytest
import torch
from torch import nn

from fake_receiver import fill
from weft.layout import LogicalTensor
from weft.vllm.capture import capture
from weft.vllm.nested import boxes_of, segments_of, storage_shape
from weft.vllm.packed import Packer, PackedLayer, loader_format
from weft.vllm.probe import NotProbed, probe

SEED = int(os.environ.get("WEFT_TEST_SEED", time.time_ns() % 2**31))
EXPERTS, ROWS, HIDDEN = 5, 32, 64


class Method:
    """`pack` makes the packed tensors from those of the loader."""

    moe_kernel = "made with the live layer"

    def __init__(self, pack):
        self.pack = pack

    def process_weights_after_loading(self, layer):
        packed = self.pack({k: p.data for k, p in layer._parameters.items()})
        for key, value in packed.items():
            layer._parameters[key] = nn.Parameter(value, False)


class Experts(nn.Module):
    """Loads `{e}.gate`, `{e}.up` and `{e}.down`, then packs itself."""

    def __init__(self, pack, experts=EXPERTS, rows=ROWS, hidden=HIDDEN):
        super().__init__()
        self.quant_method = Method(pack)
        shapes = {"w13": (experts, 2 * rows, hidden),
                  "w2": (experts, hidden, rows)}
        for key, shape in shapes.items():
            self.register_parameter(key, nn.Parameter(
                torch.zeros(shape, dtype=torch.bfloat16), False))
        self.skeletons = {k: nn.Parameter(p.data.to("meta"), False)
                          for k, p in self._parameters.items()}
        self.rows = rows

    def load_weights(self, weights):
        for name, tensor in weights:
            expert, part = name.split(".")
            if part == "down":
                self.w2.data[int(expert)].copy_(tensor)
            else:
                half = self.w13.data[int(expert)].narrow(
                    0, self.rows * (part == "up"), self.rows)
                half.copy_(tensor)

    def finish(self):
        self.quant_method.process_weights_after_loading(self)


def checkpoint_of(experts=EXPERTS, rows=ROWS, hidden=HIDDEN):
    generator = torch.Generator().manual_seed(SEED)
    def one(*shape):
        return torch.randn(shape, generator=generator).to(torch.bfloat16)
    return {f"{e}.{part}": one(hidden, rows) if part == "down"
            else one(rows, hidden)
            for e in range(experts) for part in ("gate", "up", "down")}


def check(pack, **sizes):
    """The probed and carried fragments write what loading and packing do."""
    print("WEFT_TEST_SEED", SEED)
    sources = checkpoint_of(**sizes)
    wanted = Experts(pack, **sizes)
    wanted.load_weights(sources.items())
    wanted.finish()
    live = Experts(pack, **sizes)
    live.finish()
    before = {k: (p, p.data_ptr()) for k, p in live._parameters.items()}
    layer = PackedLayer("", live, live.skeletons,
                        probe(live, live.skeletons))
    with loader_format([layer]) as skeletons:
        captured = capture(live, [
            LogicalTensor(n, "BF16", tuple(t.shape))
            for n, t in sources.items()],
            skeletons={n.removeprefix("."): t for n, t in skeletons.items()})
    memory = []
    for number, stored in enumerate(captured.placement.stored):
        moved = Packer(layer.packings[stored.name]).packed(stored)
        captured.placement.stored[number] = moved
        memory.append(live._parameters[stored.name].data.view(moved.shape))
        memory[-1].fill_(float("nan"))
    fill(captured.placement, memory, sources)
    for key, parameter in live._parameters.items():
        assert parameter is before[key][0], key
        assert parameter.data_ptr() == before[key][1], key
        assert torch.equal(parameter, wanted._parameters[key]), key
    return captured.placement


def refuse(pack, **sizes):
    live = Experts(pack, **sizes)
    live.finish()
    with pytest.raises(NotProbed) as caught:
        probe(live, live.skeletons)
    return str(caught.value)


def each(function):
    return lambda weights: {k: function(w).contiguous()
                            for k, w in weights.items()}


def blocks_of_16_rows(w):
    e, n, k = w.shape
    return w.view(e, n // 16, 16, k).transpose(2, 3).reshape(e, n, k)


def pairs_in_blocks_of_16_rows(w):
    """Tiles for AMX: two neighbours of a row, then 16 rows, then along it."""
    e, n, k = w.shape
    return w.view(e, n // 16, 16, k // 2, 2).transpose(2, 3).reshape(e, n, k)


def padded(pack, to):
    def run(weights):
        (e, n, k), rows = weights["w13"].shape, weights["w2"].shape[2]
        w13 = torch.zeros(e, 2, to, k, dtype=torch.bfloat16)
        w13[:, :, :rows] = weights["w13"].view(e, 2, rows, k)
        w2 = torch.zeros(e, k, to, dtype=torch.bfloat16)
        w2[:, :, :rows] = weights["w2"]
        return pack({"w13": w13.view(e, 2 * to, k), "w2": w2})
    return run


def test_kinds_of_packing():
    check(each(lambda w: w))
    placement = check(each(blocks_of_16_rows))
    assert len(placement.stored[0].fragments) == 2 * EXPERTS
    check(each(pairs_in_blocks_of_16_rows))
    check(each(lambda w: w.transpose(1, 2)))
    check(each(lambda w: w.unflatten(1, (2, -1)).flip(1).flatten(1, 2)))
    check(each(lambda w: w.unflatten(1, (2, -1)).transpose(1, 2)
               .flatten(1, 2)))
    check(each(lambda w: w.flip(2)))


@pytest.mark.parametrize("rows", [37, 40, 48])
def test_padding_is_zero_by_declaration(rows):
    for pack in (blocks_of_16_rows, pairs_in_blocks_of_16_rows):
        placement = check(padded(each(pack), 64), rows=rows)
        zeros = sum(int(np.prod([e - b for b, e in box]))
                    for stored in placement.stored
                    for box in stored.zero_fill)
        assert zeros == EXPERTS * 3 * (64 - rows) * HIDDEN


@pytest.mark.parametrize("isa", ["vec", "amx"])
def test_the_packing_of_the_cpu_kernels(isa):
    """Both exist on every x86 machine, whichever of them it computes with."""
    from vllm import _custom_ops as ops
    pack = each(lambda w: ops.cpu_prepack_moe_weight(w.contiguous(), isa))
    check(pack)
    check(padded(pack, 64), rows=40)
    check(pack, experts=1)


def test_one_expert_and_many():
    check(each(blocks_of_16_rows), experts=1)
    check(each(blocks_of_16_rows), experts=2)
    check(each(blocks_of_16_rows), experts=9)


def test_what_is_not_a_permutation_is_refused():
    assert "other values" in refuse(each(lambda w: w * 1.5))
    assert "other values" in refuse(each(lambda w: -w))
    assert "packed by its values" in refuse(each(
        lambda w: torch.where(w > 9, w, torch.zeros_like(w))))
    assert "one place each" in refuse(each(
        lambda w: torch.cat([w[:, :16], w[:, :16], w[:, 32:]], 1)
        if w.shape[1] > 32 else w))
    assert "one place each" in refuse(lambda weights: {
        "w13": weights["w13"], "w2": weights["w13"][:, :, :32].contiguous()})
    shuffle = torch.randperm(2 * ROWS * HIDDEN,
                             generator=torch.Generator().manual_seed(SEED))
    assert "shuffled together" in refuse(lambda weights: weights | {
        "w13": weights["w13"].flatten(1)[:, shuffle].view_as(weights["w13"])})
    assert "fails on a scratch layer: KeyError" in refuse_late(
        lambda weights: {"w13": weights["missing"]})


def refuse_late(pack):
    live = Experts(each(lambda w: w))
    live.quant_method = Method(pack)
    with pytest.raises(NotProbed) as caught:
        probe(live, live.skeletons)
    return str(caught.value)


def test_experts_in_another_order_are_refused():
    """They would not lie as the two of the scratch layer do."""
    assert "one behind the other" in refuse(each(lambda w: w.flip(0)))
    assert "of 2 experts becomes" in refuse(each(lambda w: w.transpose(0, 1)))


def test_segments_against_the_sequence():
    rng = np.random.default_rng(SEED)
    print("WEFT_TEST_SEED", SEED)
    for _ in range(300):
        shape = rng.integers(1, 5, size=rng.integers(1, 4))
        order = rng.permutation(len(shape))
        sequence = np.arange(np.prod(shape)).reshape(shape).transpose(
            order).reshape(-1)
        begin = rng.integers(0, len(sequence))
        sequence = sequence[begin:]
        at = 0
        for segment in segments_of(sequence):
            assert segment.begin == at
            for i in range(segment.begin, segment.end):
                number, offset = i - segment.begin, segment.offset
                for extent, stride in segment.modes:
                    offset += number % extent * stride
                    number //= extent
                assert number == 0 and offset == sequence[i]
            at = segment.end
        assert at == len(sequence)


def test_boxes_of_a_mask():
    rng = np.random.default_rng(SEED)
    for _ in range(200):
        mask = rng.random(rng.integers(1, 5, size=rng.integers(1, 4))) < 0.6
        counted = np.zeros(mask.shape, dtype=int)
        for box in boxes_of(mask):
            counted[tuple(slice(b, e) for b, e in box)] += 1
        assert np.array_equal(counted, mask.astype(int))


def test_storage_shape():
    assert storage_shape({1, 2, 32, 1024}, 8192) == (8, 32, 16, 2)
    assert storage_shape({16, 1}, 64) == (4, 16)
    assert storage_shape({5, 2}, 20) == (10, 2)
    assert storage_shape(set(), 7) == (7,)
    assert storage_shape(set(), 1) == (1,)
