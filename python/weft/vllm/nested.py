"""Sequences of element offsets, said as nested modes (weft/layout.py), and
sets of elements, said as boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable, Sequence

import numpy as np

from weft.layout import Box, Modes

# More segments than this in one sequence: it is a shuffle without a pattern.
MAX_SEGMENTS = 4096


class NoPattern(ValueError):
    """More than MAX_SEGMENTS segments or boxes would be needed."""


@dataclass(frozen=True)
class Segment:
    """offsets[begin + i] == offset + digits(i) for i < end - begin, digits()
    by `modes` as in weft/layout.py."""

    begin: int
    end: int
    modes: Modes
    offset: int


def segments_of(offsets: np.ndarray) -> list[Segment]:
    """The sequence, cut where one nest of modes ends and another begins."""
    found: list[Segment] = []
    at = 0
    while at < len(offsets):
        if len(found) == MAX_SEGMENTS:
            raise NoPattern(f"needs more than {MAX_SEGMENTS} segments")
        modes, length = _longest_nest(offsets[at:])
        found.append(Segment(at, at + length, modes, int(offsets[at])))
        at += length
    return found


def _longest_nest(offsets: np.ndarray) -> tuple[Modes, int]:
    """(modes, elements of the prefix that they describe). Each mode repeats
    what is known so far, as often as that goes on with one positive step."""
    modes: list[tuple[int, int]] = []
    size = 1
    while len(offsets) >= 2 * size:
        blocks = len(offsets) // size
        table = offsets[:blocks * size].reshape(blocks, size)
        step = int(table[1, 0]) - int(table[0, 0])
        if step <= 0:
            break
        ideal = (table[0][None, :]
                 + (np.arange(blocks, dtype=offsets.dtype) * step)[:, None])
        same = (table == ideal).all(axis=1)
        repeats = blocks if same.all() else int(np.argmin(same))
        if repeats < 2:
            break
        modes.append((repeats, step))
        size *= repeats
    return tuple(modes) or ((1, 0),), size


def storage_shape(strides: Iterable[int], count: int) -> tuple[int, ...]:
    """A shape of `count` elements, C-contiguous, in which as many of `strides`
    as nest, the small ones first, are steps along one dimension."""
    chain = [1]
    for stride in sorted(set(strides)):
        if stride > chain[-1] and not stride % chain[-1] and not count % stride:
            chain.append(stride)
    if count > chain[-1]:
        chain.append(count)
    return tuple(b // a for a, b in zip(chain, chain[1:]))[::-1] or (count,)


def boxes_of(mask: np.ndarray) -> list[Box]:
    """Disjoint boxes that together are the true elements of `mask`."""
    if mask.all():
        return [tuple((0, n) for n in mask.shape)]
    if not mask.any():
        return []
    changes = [0]
    changes += [i for i in range(1, len(mask))
                if not np.array_equal(mask[i], mask[i - 1])]
    if len(changes) > MAX_SEGMENTS:
        raise NoPattern(f"needs more than {MAX_SEGMENTS} boxes")
    found: list[Box] = []
    for begin, end in zip(changes, [*changes[1:], len(mask)]):
        if mask.ndim == 1:
            if mask[begin]:
                found.append(((begin, end),))
        else:
            found += [((begin, end), *inner) for inner in boxes_of(mask[begin])]
    return found


def coordinates(offsets, shape: Sequence[int]) -> list[np.ndarray]:
    """Along each dimension of a C-contiguous shape."""
    return list(np.unravel_index(np.asarray(offsets, dtype=np.int64), shape))
