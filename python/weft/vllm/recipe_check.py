"""What was captured of the engine's loader against what Weft's recipe says.

Two independent descriptions of one rank: the loader's is what counts, and a
difference means that the recipe (or the capture) has a fault. Exact without
looking at elements: where two fragments of one logical tensor meet, both say
`offset + sum over d of f_d(x_d)`, and such sums are equal on a box exactly if
each f_d differs by a constant and the constants cancel.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import weft
from weft.layout import Fragment, Placement, StoredTensor

from . import boxes
from .errors import WeftError, listed

AGREES = "agrees"


def against_recipe(captured: Placement, config: Path, passed_over: set[str]
                   ) -> str:
    """AGREES, or in words why there is no comparison or what differs.
    `passed_over`: stored tensors that are not in the loader's format."""
    try:
        recipe = weft.recipe_placement(config, captured.layout_spec,
                                       captured.rank)
    except (WeftError, OSError) as error:
        return "no recipe: " + " ".join(str(error).split())
    differing = differences(captured, recipe, passed_over)
    return f"differs in {listed(differing)}" if differing else AGREES


def differences(captured: Placement, recipe: Placement,
                passed_over: set[str] = frozenset()) -> list[str]:
    """Names of stored tensors that the two do not describe alike."""
    theirs = {stored.name: stored for stored in recipe.stored}
    ours = {stored.name: stored for stored in captured.stored
            if stored.name not in passed_over}
    wrong = sorted((theirs.keys() - passed_over) ^ ours.keys())
    return wrong + [
        name for name, stored in ours.items() if name in theirs
        and not _same(captured, stored, recipe, theirs[name])]


def _same(p: Placement, a: StoredTensor, q: Placement, b: StoredTensor) -> bool:
    if tuple(a.shape) != tuple(b.shape):
        return False
    by_name: dict[str, list[Fragment]] = {}
    for fragment in b.fragments:
        by_name.setdefault(q.tensors[fragment.tensor].name, []).append(fragment)
    met = 0
    for fragment in a.fragments:
        for other in by_name.get(p.tensors[fragment.tensor].name, ()):
            common = boxes.intersect(fragment.box, other.box)
            if common is None:
                continue
            if not _agree(fragment, other, common):
                return False
            met += boxes.volume(common)
    # Each describes each element once, so equal counts leave no rest.
    return met == _filled(a) == _filled(b)


def _filled(stored: StoredTensor) -> int:
    return sum(boxes.volume(fragment.box) for fragment in stored.fragments)


def _agree(a: Fragment, b: Fragment, common) -> bool:
    constant = a.offset - b.offset
    for d, (begin, end) in enumerate(common):
        along = _along(a, d, begin, end) - _along(b, d, begin, end)
        if (along != along[0]).any():
            return False
        constant += int(along[0])
    return constant == 0


def _along(fragment: Fragment, d: int, begin: int, end: int) -> np.ndarray:
    number = np.arange(begin, end, dtype=np.int64) - fragment.box[d][0]
    offsets = np.zeros_like(number)
    for extent, stride in fragment.modes[d]:
        offsets += number % extent * stride
        number //= extent
    return offsets
