"""What the writes of a loader cover, exactly."""

from __future__ import annotations

from dataclasses import dataclass, field

from weft.layout import Box, Fragment, Placement, StoredTensor

from . import boxes
from .errors import listed
from .live import NAMES, Live
from .strided import Piece


@dataclass
class Filled:
    """What the loader put into one live tensor, in the order of its writes."""

    pieces: list[tuple[int, Piece]] = field(default_factory=list)  # root index
    zeros: list[tuple[int, Box]] = field(default_factory=list)  # write index
    order: list[int] = field(default_factory=list)  # write index of a piece


def stored_of(item: Live, filled: Filled, recorder, placement: Placement):
    """The stored tensor, and its holes and double writes in words."""
    shape = tuple(item.tensor.shape)
    stored = StoredTensor(item.name, NAMES[item.tensor.dtype], shape)
    taken: list[Box] = []
    labels: list[str] = []
    last_write: list[int] = []
    seen = set()
    for (root, piece), index in zip(filled.pieces, filled.order, strict=True):
        if (root, piece) in seen:  # the same bytes once more
            continue
        seen.add((root, piece))
        logical = recorder.roots[root].tensor
        number = placement.tensor(logical.name, logical.dtype, logical.shape)
        stored.fragments.append(
            Fragment(number, piece.src, piece.modes, piece.offset))
        taken.append(piece.dst)
        labels.append(logical.name)
        last_write.append(index)
    for position, (index, box) in enumerate(filled.zeros):
        # What is written later covers the zeros; zeros over earlier bytes
        # stay, and show up as a double write below.
        later = [t for t, i in zip(taken[:len(last_write)], last_write)
                 if i > index]
        later += [b for i, b in filled.zeros[position + 1:]]
        for rest in boxes.subtract(box, later):
            stored.zero_fill.append(rest)
            taken.append(rest)
            labels.append("zeros")
    holes, doubles = boxes.tile_faults(boxes.whole(shape), taken)
    faults = [f'nothing fills {boxes.text(hole)} of "{item.name}" {shape}'
              for hole in holes]
    faults += [f'{listed(labels[m] for m in members)} all fill '
               f'{boxes.text(box)} of "{item.name}" {shape}'
               for box, members in doubles]
    return stored, faults


def partly_read(placement: Placement) -> list[str]:
    """One rank holds everything, so a logical tensor of which it takes a part
    has another shape than the model believes."""
    read: dict[int, list[Box]] = {}
    for stored in placement.stored:
        for fragment in stored.fragments:
            read.setdefault(fragment.tensor, []).append(fragment.box)
    faults = []
    for index, taken in read.items():
        tensor = placement.tensors[index]
        if taken == [boxes.whole(tensor.shape)]:
            continue
        faults += [f'{boxes.text(hole)} of logical tensor "{tensor.name}" '
                   f"{tensor.shape} goes nowhere"
                   for hole in boxes.subtract(boxes.whole(tensor.shape), taken)]
    return faults
