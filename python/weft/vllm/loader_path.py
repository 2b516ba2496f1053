"""Live tensors that only the engine's own loader can fill.

Where a loader computes on values, the tensors that it computes from are the
target of the transfer, on the host and as in the checkpoint; once their digests
agree, the loader itself puts them into the live parameters. It is known
beforehand what such a call writes, and anything else is refused before it is
written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Iterable, Mapping

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from weft.layout import Box, Fragment, LogicalTensor, Placement, StoredTensor

from . import boxes
from .errors import CaptureError, listed
from .live import (DTYPES, Live, all_tensors, check_untouched, live_tensors,
                   objects_of)
from .recorder import Recorder, Write, storage_of, written_by
from .strided import pieces_of


@dataclass
class LoaderPath:
    """`layer`: the packed layer whose tensors these are in the loader's format,
    or "" for tensors that live in that format. `live`: {live tensor: why}.
    `tensors`: what the loader is fed, in its order. `faults`: what it leaves
    unwritten of them, in words."""

    layer: str
    live: dict[str, str]
    tensors: list[LogicalTensor]
    faults: list[str]
    staged: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def stored_names(self) -> set[str]:
        """Of live tensors that the transfer does not write, and of what it
        writes instead."""
        return set(self.live) | {_staged_name(t) for t in self.tensors}


def find_loader_paths(recorder: Recorder, live: list[Live],
                      refused: Mapping[str, str],
                      skeletons: Mapping[str, torch.Tensor],
                      run: Callable[[list[LogicalTensor]], Recorder]
                      ) -> list[LoaderPath]:
    """What must be fed to fill the `refused` live tensors, and all that is
    written then. Each layer that stands as a skeleton goes by itself, and as a
    whole. `run` runs the loader on meta tensors. CaptureError if the loader
    does something else when it is fed those alone."""
    groups: dict[str, dict[str, str]] = {}
    for name, why in refused.items():
        layer = name.rpartition(".")[0] if name in skeletons else ""
        groups.setdefault(layer, {})[name] = why
    paths = []
    for layer, names in groups.items():
        if layer:
            names |= {name: "its layer is packed anew as a whole"
                      for name in skeletons if name not in names
                      and name.rpartition(".")[0] == layer}
        path = _find_path(recorder, live, names, run)
        path.layer = layer
        strangers = [name for name in path.live if name not in names
                     and (layer or name in skeletons)]
        if strangers:
            raise CaptureError(
                f"the loader fills {listed(names)} together with "
                f"{listed(strangers)}, which are kept in another format")
        paths.append(path)
    return paths


def _find_path(recorder, live, refused: Mapping[str, str], run) -> LoaderPath:
    items: dict[int, list[Live]] = {}
    for item in live:
        items.setdefault(storage_of(item.tensor), []).append(item)
    storages, roots = _closure(recorder, {
        storage for storage, there in items.items()
        if any(item.name in refused for item in there)})
    reasons = {item.name: refused.get(
        item.name, "the loader writes it together with the others")
        for item in live if storage_of(item.tensor) in storages}
    unknown = [name for name in refused if name not in reasons]
    if unknown:
        raise CaptureError("no description as boxes for " + "; ".join(
            f'"{name}": {refused[name]}' for name in unknown))
    tensors = [recorder.roots[index].tensor for index in sorted(roots)]
    if _traces(run(tensors), None) != _traces(recorder, storages):
        raise CaptureError(
            f"the loader fills {listed(reasons)} in another way when it is "
            f"fed {listed(t.name for t in tensors)} alone, so neither boxes "
            "nor the loader can fill them")
    faults = [fault for storage in storages for item in items[storage]
              for fault in _faults(item, recorder, storage)]
    return LoaderPath("", reasons, tensors, faults)


def _closure(recorder, storages: set[int]) -> tuple[set[int], set[int]]:
    """(live storages, roots): all that is written from these roots, and all
    roots and written tensors that this is made from."""
    made_from: dict[int, set[int]] = {}
    read_by: dict[int, set[int]] = {}
    for write in recorder.writes:
        roots = set(recorder.roots_of(write))
        if not roots and not write.from_live and write.refusal:
            roots = {write.fed} - {-1}  # a constant, at this one's turn
        made_from.setdefault(write.storage, set()).update(roots)
        read_by.setdefault(write.storage, set()).update(write.from_live)
    storages, roots = set(storages), set()
    while True:
        new_roots = {r for s in storages for r in made_from.get(s, ())}
        more = {s for s, from_roots in made_from.items()
                if from_roots & new_roots}
        more |= {r for s in storages for r in read_by.get(s, ())
                 if r in made_from}
        if new_roots == roots and more <= storages:
            return storages, roots
        roots, storages = new_roots, storages | more


def _traces(recorder, storages) -> list[tuple]:
    """The writes into `storages` (None: into any), told by names."""
    def names(roots: Iterable[int]):
        return frozenset(recorder.roots[r].tensor.name for r in roots)

    return [(w.storage, w.dst, w.dst_dtype, names(recorder.roots_of(w)),
             w.root_view, w.constant, w.refusal, w.from_live)
            for w in recorder.writes
            if (storages is None or w.storage in storages)
            and 0 not in w.dst.shape]


def _faults(item: Live, recorder, storage) -> list[str]:
    """Elements that keep or use an old value: the result must depend on what
    is fed and on nothing else."""
    shape = tuple(item.tensor.shape)
    done: list[Box] = []
    faults = []
    for write in recorder.writes:
        if storage in write.from_live and _holes(shape, done):
            faults.append(f'the loader uses "{item.name}" before it has '
                          "filled it")
        if write.storage != storage or not (
                item.begin <= write.dst.offset < item.end):
            continue
        there = _boxes(write, item, shape)
        if write.changes and any(boxes.subtract(box, done) for box in there):
            faults.append(f'the loader changes "{item.name}" before it has '
                          "filled it")
        done += there
    if item.is_parameter:
        faults += [f'nothing fills {boxes.text(hole)} of "{item.name}" {shape}'
                   for hole in _holes(shape, done)]
    return faults


def _holes(shape, done: list[Box]) -> list[Box]:
    return boxes.subtract(boxes.whole(shape), done)


def _boxes(write: Write, item: Live, shape) -> list[Box]:
    at = write.dst.offset - item.begin
    return [piece.dst for piece in pieces_of(
        write.dst.shape, write.dst.strides, at, shape,
        write.dst.strides, at, shape)]


# ---- the transfer's target, and the loader's turn --------------------------


def _staged_name(tensor: LogicalTensor) -> str:
    return f"for the loader: {tensor.name}"


def staged_tensors(path: LoaderPath, placement: Placement
                   ) -> list[torch.Tensor]:
    """Adds a stored tensor for each tensor that the loader is fed, and makes
    its memory."""
    for tensor in path.tensors:
        index = placement.tensor(tensor.name, tensor.dtype, tensor.shape)
        whole = boxes.whole(tensor.shape)
        placement.stored.append(StoredTensor(
            _staged_name(tensor), tensor.dtype, tensor.shape,
            [Fragment.row_major(index, whole, tensor.shape,
                                [0] * len(tensor.shape))]))
        path.staged[tensor.name] = torch.zeros(
            tensor.shape, dtype=DTYPES[tensor.dtype])
    return list(path.staged.values())


def load(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor],
         allowed: set[str]) -> None:
    """Lets the model's loader put `tensors` into the live tensors `allowed`
    (names). CaptureError before it writes into another one, and if it puts
    one elsewhere instead of writing into it."""
    names = {storage_of(t): n for n, t in all_tensors(model)}
    into = {storage_of(item.tensor) for item in live_tensors(model)
            if item.name in allowed}
    before = objects_of(model)
    with torch.no_grad(), _OnlyInto(into, names):
        model.load_weights(iter(tensors.items()))
    check_untouched(model, before)


class _OnlyInto(TorchDispatchMode):
    def __init__(self, allowed: set[int], names: dict[int, str]):
        super().__init__()
        self._allowed = allowed
        self._names = names

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for tensor in written_by(func, args, kwargs):
            key = storage_of(tensor)
            if key in self._names and key not in self._allowed:
                raise CaptureError(
                    f'the loader writes "{self._names[key]}" by {func}, which '
                    "it did not when its writes were recorded")
        return func(*args, **kwargs)
