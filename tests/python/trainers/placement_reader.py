"""Slow and obvious: logical tensors from what ranks hold, by the definition of
a fragment in weft/layout.py, one element at a time."""

import itertools
import math
from typing import NamedTuple

import torch

from weft.layout import Placement


class Rank(NamedTuple):
    """What one rank wrote: its placement and its tensors, in order."""

    placement: Placement
    tensors: list


def element_offset(fragment, index):
    """Element of the stored tensor at a logical index of the fragment."""
    offset = fragment.offset
    for x, (begin, _), modes in zip(index, fragment.box, fragment.modes,
                                    strict=True):
        n = x - begin
        for extent, stride in modes:
            offset += n % extent * stride
            n //= extent
        assert n == 0, "index beyond the modes"
    return offset


def assemble(ranks, may_have_holes=False):
    """{name: tensor} from all ranks. Asserts that the placements are of one
    mesh, that ranks agree where they hold the same element, that someone
    holds every element, that no stored element is described twice, and that
    each is described unless the source may have holes."""
    specs = {(r.placement.layout_spec, r.placement.num_ranks) for r in ranks}
    assert len(specs) == 1, specs
    numbers = sorted(r.placement.rank for r in ranks)
    assert numbers == list(range(ranks[0].placement.num_ranks))
    values, logical = {}, {}
    for rank in ranks:
        for spec in rank.placement.tensors:
            assert logical.setdefault(spec.name, spec) == spec
        assert len(rank.placement.stored) == len(rank.tensors)
        for stored, tensor in zip(rank.placement.stored, rank.tensors,
                                  strict=True):
            _read_stored(rank.placement, stored, tensor, values,
                         may_have_holes)
    return {name: _fill(spec, values.get(name, {}))
            for name, spec in logical.items()}


def _read_stored(placement, stored, tensor, values, may_have_holes):
    assert stored.shape == tuple(tensor.shape), stored.name
    assert tensor.is_contiguous()
    flat = tensor.reshape(-1).tolist()
    used = set()
    for fragment in stored.fragments:
        spec = placement.tensors[fragment.tensor]
        assert stored.dtype == spec.dtype == _dtype_name(tensor.dtype)
        of_tensor = values.setdefault(spec.name, {})
        for begin_end, extent in zip(fragment.box, spec.shape, strict=True):
            assert 0 <= begin_end[0] < begin_end[1] <= extent
        for index in itertools.product(*(range(*r) for r in fragment.box)):
            offset = element_offset(fragment, index)
            assert 0 <= offset < len(flat), stored.name
            assert offset not in used, f"{stored.name}: {offset} twice"
            used.add(offset)
            value = of_tensor.setdefault(index, flat[offset])
            assert value == flat[offset], f"{spec.name}{index}: ranks differ"
    if not may_have_holes:
        assert len(used) == len(flat), f"{stored.name}: elements without name"


def _fill(spec, values):
    assert len(values) == math.prod(spec.shape), f"{spec.name}: not covered"
    indices = itertools.product(*(range(n) for n in spec.shape))
    flat = [values[index] for index in indices]
    return torch.tensor(flat, dtype=_dtype(spec.dtype)).reshape(spec.shape)


_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def _dtype(name):
    return _DTYPES[name]


def _dtype_name(dtype):
    return {d: n for n, d in _DTYPES.items()}[dtype]


def assert_same(assembled, checkpoint):
    """The assembled tensors are the checkpoint's, bit for bit."""
    assert sorted(assembled) == sorted(checkpoint)
    for name, expected in checkpoint.items():
        actual = assembled[name]
        assert actual.dtype == expected.dtype, name
        assert actual.shape == expected.shape, name
        assert torch.equal(actual, expected), name
