"""A strided copy, said as boxes and modes.

A copy walks an iteration space; at each step it reads one element of a
C-contiguous source and writes one of a C-contiguous destination, both given
by strides. To be a fragment, the elements read must form a box of the source.
Notation: an axis (n, a, b) takes n steps, each a elements on in the source and
b in the destination. In a C-contiguous shape with strides S, an axis that
steps by a = c * S[k] is a *digit* of dimension k with weight c. The elements
are a box when the digits of each dimension, sorted by weight, are 1, n0,
n0*n1, ...: a mixed radix without gaps. An axis that is not a digit is cut in
two where that helps and into single steps where nothing else does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

from weft.layout import Box, Modes, contiguous_strides

# More pieces than this from one copy: the loader permutes elements in a way
# that wants another description than a list of boxes.
MAX_PIECES = 16384


class Irregular(ValueError):
    """The copy has no description by at most MAX_PIECES boxes."""


@dataclass(frozen=True)
class Piece:
    """Box `src` of the source lies in box `dst` of the destination, by
    `modes` (one a source dimension) and `offset` (elements)."""

    src: Box
    dst: Box
    modes: tuple[Modes, ...]
    offset: int


Axis = tuple[int, int, int]  # steps, source stride, destination stride


def pieces_of(shape: Sequence[int], src_strides: Sequence[int],
              src_offset: int, src_shape: Sequence[int],
              dst_strides: Sequence[int], dst_offset: int,
              dst_shape: Sequence[int]) -> list[Piece]:
    """The pieces whose union is the copy. Irregular if there are too many."""
    if any(n == 0 for n in shape):
        return []
    axes = [(int(n), int(a), int(b))
            for n, a, b in zip(shape, src_strides, dst_strides, strict=True)
            if n > 1]
    pieces: list[Piece] = []
    work = [(axes, int(src_offset), int(dst_offset))]
    while work:
        axes, src_at, dst_at = work.pop()
        src_axes = [(n, a) for n, a, _ in axes]
        dst_axes = [(n, b) for n, _, b in axes]
        cut = (_first_cut(src_axes, src_at, src_shape)
               or _first_cut(dst_axes, dst_at, dst_shape))
        if cut is None:
            pieces.append(_piece(axes, src_at, src_shape, dst_at, dst_shape))
            continue
        index, inner, ends = cut
        n, a, b = axes[index]
        rest = axes[:index] + axes[index + 1:]
        if inner is not None:  # n = inner * outer steps
            split = [(inner, a, b), (n // inner, a * inner, b * inner)]
            work.append((rest + split, src_at, dst_at))
            continue
        if len(ends) + len(work) + len(pieces) > MAX_PIECES:
            raise Irregular(f"needs more than {MAX_PIECES} boxes")
        begins = [0, *ends[:-1]]
        work.extend(
            (rest + ([(end - begin, a, b)] if end - begin > 1 else []),
             src_at + begin * a, dst_at + begin * b)
            for begin, end in zip(reversed(begins), reversed(ends)))
    return pieces


# How to cut one axis: (axis, inner, None) into inner x outer steps, or
# (axis, None, ends) into ranges of steps with these ends.
Cut = tuple[int, int | None, Sequence[int] | None]


def _single_steps(axes, index) -> Cut:
    return index, None, range(1, axes[index][0] + 1)


def _first_cut(axes, at, shape) -> Cut | None:
    """None if the axes form a box of `shape`."""
    digits = _digits_of(axes, at, shape)
    if isinstance(digits, tuple):
        return digits
    coordinates = _coordinates(at, shape)
    for k, members in digits.items():
        weight = 1
        for c, index in sorted(members):
            if c != weight:
                return _single_steps(axes, index)
            weight = c * axes[index][0]
        if coordinates[k] + weight > shape[k]:  # carries into the next one
            c, index = max(members)
            before = (shape[k] - coordinates[k]) // c
            if 0 < before < axes[index][0]:
                return index, None, [before, axes[index][0]]
            return _single_steps(axes, index)
    return None


def _digits_of(axes, at, shape):
    """{dimension: [(weight, axis)]}, or the cut that is needed first."""
    strides = contiguous_strides(shape)
    digits: dict[int, list[tuple[int, int]]] = {}
    for index, (n, stride) in enumerate(axes):
        if stride <= 0:  # a repeated element, or one walked backwards
            return _single_steps(axes, index)
        k = next((d for d in range(len(shape))
                  if shape[d] > 1 and strides[d] <= stride), None)
        if k is None or stride % strides[k]:
            return _single_steps(axes, index)
        c = stride // strides[k]
        if c * n > shape[k]:  # runs over into the next dimension
            return _cut_at_edges(axes, index, c, shape[k],
                                 _coordinates(at, shape)[k])
        digits.setdefault(k, []).append((c, index))
    return digits


def _cut_at_edges(axes, index, c, extent, coordinate) -> Cut:
    """Cuts an axis that runs from `coordinate` by `c` over the end of its
    dimension: up to the first edge, then whole rows, then the rest."""
    n = axes[index][0]
    inner = extent // c
    if extent % c or inner < 2:
        return _single_steps(axes, index)
    if coordinate >= c:
        first = -(-(extent - coordinate) // c)
        return index, None, [min(first, n), n][:1 + (first < n)]
    if n % inner:
        return index, None, [n - n % inner, n]
    return index, inner, None


def _coordinates(at, shape):
    coordinates = []
    for n, stride in zip(shape, contiguous_strides(shape), strict=True):
        coordinates.append(at // stride % n if n else 0)
    return coordinates


def _piece(axes, src_at, src_shape, dst_at, dst_shape):
    src_digits = _digits_of([(n, a) for n, a, _ in axes], src_at, src_shape)
    modes = []
    for k in range(len(src_shape)):
        dim: list[tuple[int, int]] = []
        for _, index in sorted(src_digits.get(k, [])):
            n, _, b = axes[index]
            if dim and dim[-1][0] * dim[-1][1] == b:
                dim[-1] = (dim[-1][0] * n, dim[-1][1])
            else:
                dim.append((n, b))
        modes.append(tuple(dim) or ((1, 0),))
    return Piece(_box([(n, a) for n, a, _ in axes], src_at, src_shape),
                 _box([(n, b) for n, _, b in axes], dst_at, dst_shape),
                 tuple(modes), dst_at)


def _box(axes, at, shape) -> Box:
    digits = _digits_of(axes, at, shape)
    box = []
    for k, begin in enumerate(_coordinates(at, shape)):
        extent = 1
        for _, index in digits.get(k, []):
            extent *= axes[index][0]
        box.append((begin, begin + extent))
    return tuple(box)
