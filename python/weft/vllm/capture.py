"""Learns where an engine's loader puts every element, from the loader itself.

`capture(model, tensors)` runs `model.load_weights` once over meta tensors
under a Recorder. The model may be live: no write is executed. What comes out
is exact, or an error that names every tensor it cannot explain.
"""

from __future__ import annotations

import functools
import gc
import math
import time
from dataclasses import dataclass, field
from typing import Callable, Iterable, Mapping

import numpy as np
import torch

from weft.layout import LogicalTensor, Placement

from .coverage import Filled, partly_read, stored_of
from .errors import CaptureError, CoverageError, WeftError, listed
from .live import (DTYPES, Live, all_tensors, check_untouched, live_tensors,
                   objects_of)
from .loader_path import LoaderPath, find_loader_paths, staged_tensors
from .recorder import ROOT_SHIFT, ZERO, Recorder, View, Write, storage_of
from .strided import Irregular, Piece, pieces_of

# Values of the first dtype survive a stay in the second one.
_EXACT_THROUGH = {(torch.bfloat16, torch.float32),
                  (torch.float16, torch.float32)}


@dataclass
class Captured:
    """`tensors[i]` is the live memory of `placement.stored[i]`, or, for the
    loader path, host memory that holds a logical tensor for it."""

    placement: Placement
    tensors: list[torch.Tensor]
    unused: list[str]  # logical tensors that the loader put nowhere
    untouched: list[str]  # live buffers that the loader does not write
    seconds: float = 0.0
    loader_paths: list[LoaderPath] = field(default_factory=list)


def capture(model: torch.nn.Module, tensors: Iterable[LogicalTensor], *,
            layout_spec: str = "vllm", rank: int = 0, num_ranks: int = 1,
            derived: Callable[[str], bool] = lambda name: False,
            skeletons: Mapping[str, torch.Tensor] | None = None,
            by_loader: Mapping[str, str] | None = None) -> Captured:
    """The placement of this rank. `derived(name)`: parameters that the engine
    computes from others after loading, which no checkpoint fills.
    `skeletons`: meta tensors of the model that stand for live memory, by name.
    `by_loader`: {skeleton: why} of those that only the loader itself can fill;
    with it (an empty one too), what the loader computes takes that way as
    well. Without it, that is refused.

    CaptureError names what has no description as boxes; CoverageError names
    all holes and double writes; both before anything is moved."""
    begin = time.monotonic()
    # Some hundred thousand objects are made here and all of them are kept:
    # looking for garbage among them takes longer than making them.
    collecting = gc.isenabled()
    gc.disable()
    try:
        captured = _capture(model, list(tensors), Placement(
            layout_spec, rank, num_ranks), derived, skeletons or {}, by_loader)
    finally:
        if collecting:
            gc.enable()
    captured.seconds = time.monotonic() - begin
    return captured


def _capture(model, tensors, placement: Placement, derived, skeletons,
             by_loader) -> Captured:
    live = live_tensors(model, skeletons)
    before = objects_of(model)
    recorder = run_loader(model, tensors)
    filled, refused = _explain(recorder, live)
    paths = []
    if by_loader is not None:
        paths = find_loader_paths(
            recorder, live, {**refused, **by_loader}, skeletons,
            lambda some: run_loader(model, some))
    elif refused:
        raise CaptureError("no description as boxes for " + "; ".join(
            f'"{name}": {why}' for name, why in refused.items()))
    check_untouched(model, before)
    memory, faults, untouched = [], [], []
    loaded = {name for path in paths for name in path.live}
    for number, item in enumerate(live):
        if item.name in loaded:
            continue
        if number not in filled and not item.is_parameter:
            untouched.append(item.name)
            continue
        if derived(item.name):
            if number in filled:
                raise CaptureError(f'the loader writes "{item.name}", which '
                                   "is known as a derived tensor")
            untouched.append(item.name)
            continue
        stored, wrong = stored_of(item, filled.get(number, Filled()),
                                  recorder, placement)
        faults.extend(wrong)
        placement.stored.append(stored)
        memory.append(item.tensor)
    for path in paths:
        faults.extend(path.faults)
        memory.extend(staged_tensors(path, placement))
    if placement.num_ranks == 1:
        faults.extend(partly_read(placement))
    if faults:
        raise CoverageError(
            f"{len(faults)} faults in what the loader of "
            f"{type(model).__name__} covers: " + "; ".join(faults[:64])
            + ("; ..." if len(faults) > 64 else ""))
    used = {t.name for t in placement.tensors}
    unused = [root.tensor.name for root in recorder.roots
              if root.tensor.name not in used]
    return Captured(placement, memory, unused, untouched, loader_paths=paths)


# ---- running the loader ---------------------------------------------------


def run_loader(model, tensors: list[LogicalTensor]) -> Recorder:
    """What the model's loader does with these tensors; nothing is written."""
    unknown = [f"{t.name} ({t.dtype})" for t in tensors
               if t.dtype not in DTYPES]
    if unknown:
        raise CaptureError(f"unknown dtypes of {listed(unknown)}")
    recorder = Recorder({storage_of(t): t for _, t in all_tensors(model)})
    handles = [recorder.feed(t, DTYPES[t.dtype]) for t in tensors]

    def feed():
        for turn, (tensor, handle) in enumerate(zip(tensors, handles)):
            recorder.turn = turn
            yield tensor.name, handle

    try:
        with torch.no_grad(), recorder:
            model.load_weights(feed())
    except WeftError:
        raise
    except Exception as error:
        last = tensors[recorder.turn] if recorder.turn >= 0 else None
        at = (f'on tensor "{last.name}" of shape {last.shape}'
              if last else "before the first tensor")
        reason = " ".join(str(error).split()) or "no reason given"
        raise CaptureError(f"the loader of {type(model).__name__} failed {at}: "
                           f"{type(error).__name__}: {reason}") from error
    reads = recorder.unresolved_reads()
    if reads:
        raise CaptureError("the loader decides by the values of "
                           f"{listed(reads)}")
    return recorder


# ---- explaining the writes ------------------------------------------------


def _explain(recorder, live):
    """({number of a live tensor: what fills it}, {name: why it has none})."""
    by_storage: dict[int, list[int]] = {}
    for number, item in enumerate(live):
        by_storage.setdefault(storage_of(item.tensor), []).append(number)
    filled: dict[int, Filled] = {}
    refusals: dict[str, str] = {}
    for index, write in enumerate(recorder.writes):
        numbers = by_storage.get(write.storage, [])
        number = next((n for n in numbers
                       if live[n].begin <= write.dst.offset < live[n].end),
                      None)
        if number is None:
            if 0 not in write.dst.shape:
                refusals.setdefault("a tensor without dense memory",
                                    "the loader writes into it")
            continue
        item = live[number]
        try:
            _explain_one(index, write, item, recorder,
                         filled.setdefault(number, Filled()))
        except (_Refused, Irregular) as error:
            refusals.setdefault(item.name, str(error))
    return filled, refusals


class _Refused(Exception):
    pass


def _explain_one(index, write: Write, item: Live, recorder, into: Filled):
    if write.refusal:
        raise _Refused(write.refusal)
    if write.dst_dtype != item.tensor.dtype:
        raise _Refused(f"the loader writes it as {write.dst_dtype}")
    at = write.dst.offset - item.begin
    shape = tuple(item.tensor.shape)
    if write.constant is not None:
        if write.constant != 0:
            raise _Refused(f"the loader fills it with {write.constant}")
        # A constant has no source: say it as a copy of the box itself.
        for piece in pieces_of(write.dst.shape, write.dst.strides, at, shape,
                               write.dst.strides, at, shape):
            into.zeros.append((index, piece.dst))
        return
    if write.root is not None:
        _add(index, write.root, write.root_view, write.dst.strides, at, shape,
             recorder, into)
        return
    _check_casts(write, item, recorder)
    for start, sizes, root, root_view in _affine_parts(write.codes.numpy()):
        part_at = at + sum(s * x for s, x in zip(write.dst.strides, start))
        if root is None:
            for piece in pieces_of(sizes, write.dst.strides, part_at, shape,
                                   write.dst.strides, part_at, shape):
                into.zeros.append((index, piece.dst))
        else:
            _add(index, root, root_view, write.dst.strides, part_at, shape,
                 recorder, into)


def _add(index, root, view: View, strides, at, shape, recorder, into):
    for piece in _pieces(view.shape, view.strides, view.offset,
                         recorder.roots[root].tensor.shape,
                         strides, at, shape):
        into.pieces.append((root, piece))
        into.order.append(index)


def _pieces(view_shape, view_strides, view_offset, root_shape, strides, at,
            shape) -> list[Piece]:
    """pieces_of(), which does not depend on where in the outermost dimension
    of the live tensor the copy begins: experts differ in that alone."""
    if not shape:
        return pieces_of(view_shape, view_strides, view_offset, root_shape,
                         strides, at, shape)
    row = math.prod(shape[1:])
    first, inside = divmod(at, row)
    found = _pieces_from_row_0(view_shape, view_strides, view_offset,
                               root_shape, strides, inside, shape)
    if first == 0:
        return found
    return [Piece(p.src, ((p.dst[0][0] + first, p.dst[0][1] + first),
                          *p.dst[1:]), p.modes, p.offset + first * row)
            for p in found]


@functools.lru_cache(maxsize=4096)
def _pieces_from_row_0(*arguments) -> list[Piece]:
    return pieces_of(*arguments)


def _check_casts(write, item, recorder):
    """A value may pass only through dtypes that keep it."""
    roots = torch.unique(write.codes[write.codes >= 0] >> ROOT_SHIFT).tolist()
    for root in roots:
        first = recorder.roots[root].torch_dtype
        for middle in write.dtypes - {first, item.tensor.dtype}:
            if (first, middle) not in _EXACT_THROUGH:
                raise _Refused(
                    f'the loader takes "{recorder.roots[root].tensor.name}" '
                    f"from {first} through {middle} to {item.tensor.dtype}")


def _affine_parts(codes: np.ndarray):
    """Cuts an array of codes into parts (start, sizes, root, view of root)
    in which the code is affine in the index; root None means zeros."""
    work = [((0,) * codes.ndim, codes)]
    parts = 0
    while work:
        start, part = work.pop()
        if part.size == 0:
            continue
        parts += 1
        if parts > 65536:
            raise Irregular("moves single elements around")
        first = int(part.flat[0])
        # The root of each element, or which constant it is.
        holder = np.where(part >= 0, part >> ROOT_SHIFT, part)
        if (holder != holder.flat[0]).any():
            work.extend(_cut(start, part, holder, holder.flat[0]))
            continue
        if first == ZERO:
            yield start, part.shape, None, None
            continue
        if first < 0:
            raise _Refused("the loader computes its value, or copies memory "
                           "that nothing filled")
        steps = [int(np.take(part, 1, axis=d).flat[0]) - first
                 if part.shape[d] > 1 else 0 for d in range(part.ndim)]
        ideal = np.full((), first, dtype=np.int64)
        for n, step in zip(part.shape, steps, strict=True):
            ideal = ideal[..., None] + np.arange(n, dtype=np.int64) * step
        if np.array_equal(part, ideal):
            yield (start, part.shape, first >> ROOT_SHIFT,
                   View(part.shape, tuple(steps),
                        first & ((1 << ROOT_SHIFT) - 1)))
        else:
            work.extend(_cut(start, part, part, ideal))


def _cut(start, part, found, ideal):
    """Two parts, cut before the first index at which `found` is not `ideal`:
    in the outermost dimension along whose first line that happens, else in
    the outermost one at all."""
    wrong = found != ideal
    for first_line_only in (True, False):
        for d in range(part.ndim):
            across = np.moveaxis(wrong, d, 0).reshape(part.shape[d], -1)
            broken = across[:, 0] if first_line_only else across.any(axis=1)
            at = int(np.argmax(broken))
            if broken[at] and at > 0:
                a = (slice(None),) * d + (slice(0, at),)
                b = (slice(None),) * d + (slice(at, None),)
                moved = tuple(s + at * (i == d) for i, s in enumerate(start))
                return [(moved, part[b]), (start, part[a])]
    raise AssertionError("a pattern that breaks at no index")
