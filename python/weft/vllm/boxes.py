"""Boxes: half-open ranges, one a dimension. Exact tiling of a shape."""

from __future__ import annotations

from bisect import bisect_left
from typing import Sequence

from weft.layout import Box


def whole(shape: Sequence[int]) -> Box:
    return tuple((0, int(n)) for n in shape)


def volume(box: Box) -> int:
    product = 1
    for begin, end in box:
        product *= end - begin
    return product


def intersect(a: Box, b: Box) -> Box | None:
    """None where nothing is common."""
    common = tuple((max(ab, bb), min(ae, be))
                   for (ab, ae), (bb, be) in zip(a, b, strict=True))
    return None if any(b >= e for b, e in common) else common


def text(box: Box) -> str:
    return "x".join(f"[{begin},{end})" for begin, end in box) or "[]"


def tile_faults(region: Box, boxes: Sequence[Box]):
    """(holes, doubles): the parts of `region` that no box covers, and those
    that several do, each with the indices of the boxes there. Exact: the
    region is cut at all edges of one dimension after the other."""
    holes: list[Box] = []
    doubles: list[tuple[Box, tuple[int, ...]]] = []
    if volume(region) == 0:
        return holes, doubles

    def walk(prefix, dim, members):
        if dim == len(region):
            if not members:
                holes.append(prefix)
            elif len(members) > 1:
                doubles.append((prefix, tuple(members)))
            return
        begin, end = region[dim]
        cuts = {begin, end}
        for m in members:
            cuts.update(min(max(edge, begin), end) for edge in boxes[m][dim])
        cuts = sorted(cuts)
        inside = [[] for _ in cuts[1:]]
        for m in members:
            first = bisect_left(cuts, max(boxes[m][dim][0], begin))
            last = bisect_left(cuts, min(boxes[m][dim][1], end))
            for slot in range(first, last):
                inside[slot].append(m)
        for slot, there in enumerate(inside):
            if len(there) == 1 and all(
                    b <= begin and end <= e for (b, e), (begin, end) in zip(
                        boxes[there[0]][dim + 1:], region[dim + 1:])):
                continue  # one box, all the way
            here = prefix + ((cuts[slot], cuts[slot + 1]),)
            if there:
                walk(here, dim + 1, there)
            else:
                holes.append(here + tuple(region[dim + 1:]))

    walk((), 0, list(range(len(boxes))))
    return _join(holes), doubles


def subtract(region: Box, boxes: Sequence[Box]) -> list[Box]:
    """The parts of `region` outside all `boxes`."""
    return tile_faults(region, [b for b in boxes if intersect(region, b)])[0]


def _join(boxes: list[Box]) -> list[Box]:
    """Joins neighbours in the list that differ in one touching range."""
    joined: list[Box] = []
    for box in boxes:
        if joined:
            last = joined[-1]
            differ = [d for d in range(len(box)) if box[d] != last[d]]
            if len(differ) == 1:
                d = differ[0]
                if last[d][1] == box[d][0]:
                    joined[-1] = (last[:d] + ((last[d][0], box[d][1]),)
                                  + last[d + 1:])
                    continue
        joined.append(box)
    return joined
