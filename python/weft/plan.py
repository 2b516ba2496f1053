"""Plans without any memory: what would go where."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Iterable

from weft import _native
from weft.layout import Placement


class Plan:
    """A proven plan for one target rank."""

    def __init__(self, native):
        self._native = native

    def explain(self) -> str:
        """For a person: bytes by peer, run lengths, conversions, bound."""
        return self._native.explain()

    def as_dict(self) -> dict:
        return json.loads(self._native.json())

    __str__ = explain


def plan(sources: Iterable[Placement], target: Placement,
         staging_bytes: int = 64 << 20) -> Plan:
    """Plans how `target` gets each of its elements from `sources` (every rank
    of the trainer's mesh). CoverageError lists all holes and double writes,
    BadInput all that is wrong with the placements."""
    return Plan(_native.plan(list(sources), target, staging_bytes))


def explain(sources: Iterable[Placement], target: Placement) -> str:
    """plan(...).explain()."""
    return plan(sources, target).explain()


def recipe_placement(config: str | os.PathLike | dict, layout: str, rank: int,
                     recipes: str = "") -> Placement:
    """What rank `rank` of `layout` ("megatron:tp=2,pp=2", "vllm:tp=4", "hf",
    ...) stores of a model, by Weft's recipes. `config`: a Hugging Face config
    as a dict, or the path of config.json or its folder. Values are taken as
    BF16. BadInput lists what is supported."""
    if isinstance(config, dict):
        text = json.dumps(config)
    else:
        path = pathlib.Path(config)
        text = (path / "config.json" if path.is_dir() else path).read_text()
    return _native.recipe_placement(text, layout, rank, recipes)
