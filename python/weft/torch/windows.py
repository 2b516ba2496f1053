"""Windows and pieces: from what a framework calls one tensor to fragments.

The *memory tensor* is the whole tensor as the framework thinks of it, such as
stacked experts [E, 2I, H]. A *window* is a box of it that is a box of one
checkpoint tensor. A *piece* is a range of one of its dimensions that lies in
this rank's local tensor. A fragment is window x pieces.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Iterable, NamedTuple, Sequence

from weft.layout import Fragment, Placement, contiguous_strides


class Piece(NamedTuple):
    """Indices [begin, begin + extent) of a dimension of the memory tensor are
    indices [local, local + extent) of the local tensor."""

    begin: int
    local: int
    extent: int


@dataclass(frozen=True)
class Window:
    """memory_box of the memory tensor is a box of checkpoint tensor `name`.

    The checkpoint tensor may have fewer dimensions than the memory tensor: it
    lacks leading ones, in which the window then is one index wide.
    """

    name: str
    shape: tuple[int, ...]  # of the checkpoint tensor
    begin: tuple[int, ...]  # of the box, in the checkpoint tensor
    memory_begin: tuple[int, ...]
    memory_extent: tuple[int, ...]

    @staticmethod
    def whole(name: str, shape: Sequence[int]) -> Window:
        """The memory tensor is the checkpoint tensor."""
        shape = tuple(int(n) for n in shape)
        zeros = (0,) * len(shape)
        return Window(name, shape, zeros, zeros, shape)


def whole_pieces(shape: Sequence[int]) -> list[list[Piece]]:
    """The local tensor is the whole memory tensor."""
    return [[Piece(0, 0, int(n))] for n in shape]


def add_fragments(placement: Placement, dtype: str, windows: Iterable[Window],
                  pieces: Sequence[Sequence[Piece]],
                  local_shape: Sequence[int]) -> list[Fragment]:
    """The non-empty fragments of a local tensor of `local_shape`, `pieces`
    being a list a dimension. Adds the checkpoint tensors that they name to the
    placement; ValueError if one is there with another dtype or shape."""
    strides = contiguous_strides(local_shape)
    fragments = []
    for window in windows:
        for block in itertools.product(*pieces):
            fragment = _fragment(placement, dtype, window, block, strides)
            if fragment is not None:
                fragments.append(fragment)
    return fragments


def _fragment(placement: Placement, dtype: str, window: Window,
              block: Sequence[Piece],
              strides: Sequence[int]) -> Fragment | None:
    offset = 0
    ranges = []
    for piece, begin, extent, stride in zip(
            block, window.memory_begin, window.memory_extent, strides,
            strict=True):
        low = max(piece.begin, begin)
        high = min(piece.begin + piece.extent, begin + extent)
        if low >= high:
            return None
        offset += (low - piece.begin + piece.local) * stride
        ranges.append((low - begin, high - begin))
    dropped = len(ranges) - len(window.shape)
    kept = ranges[dropped:]
    box = tuple((b + low, b + high)
                for (low, high), b in zip(kept, window.begin, strict=True))
    modes = tuple(((high - low, stride),)
                  for (low, high), stride in zip(kept, strides[dropped:],
                                                 strict=True))
    tensor = placement.tensor(window.name, dtype, window.shape)
    return Fragment(tensor, box, modes, offset)
