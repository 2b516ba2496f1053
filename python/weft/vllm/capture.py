"""Learns where an engine's loader puts every element, from the loader itself.

`capture(model, tensors)` runs `model.load_weights` once over meta tensors
under a Recorder. The model may be live: no write is executed. What comes out
is exact, or an error that names every tensor it cannot explain.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Callable, Iterable

import numpy as np
import torch

from weft.layout import (Box, Fragment, LogicalTensor, Placement,
                         StoredTensor)

from . import boxes
from .errors import CaptureError, CoverageError, WeftError, listed
from .recorder import ROOT_SHIFT, ZERO, Recorder, View, Write, storage_of
from .strided import Irregular, Piece, pieces_of

DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8,
    "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32,
    "F64": torch.float64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

# Values of the first dtype survive a stay in the second one.
_EXACT_THROUGH = {(torch.bfloat16, torch.float32),
                  (torch.float16, torch.float32)}


@dataclass
class Live:
    """One buffer of the model: a tensor with its elements to itself.
    `tensor` is C-contiguous, a view of the live memory."""

    name: str
    tensor: torch.Tensor
    is_parameter: bool
    begin: int  # elements of the storage
    end: int


@dataclass
class Captured:
    """`tensors[i]` is the live memory of `placement.stored[i]`."""

    placement: Placement
    tensors: list[torch.Tensor]
    unused: list[str]  # logical tensors that the loader put nowhere
    untouched: list[str]  # live buffers that the loader does not write
    seconds: float


@dataclass
class _Filled:
    """What the loader put into one live tensor, in the order of its writes."""

    pieces: list[tuple[int, Piece]] = field(default_factory=list)  # root index
    zeros: list[tuple[int, Box]] = field(default_factory=list)  # write index
    order: list[int] = field(default_factory=list)  # write index of a piece


def capture(model: torch.nn.Module, tensors: Iterable[LogicalTensor], *,
            layout_spec: str = "vllm", rank: int = 0, num_ranks: int = 1,
            derived: Callable[[str], bool] = lambda name: False) -> Captured:
    """The placement of this rank. `derived(name)`: parameters that the engine
    computes from others after loading, which no checkpoint fills.

    CaptureError names what has no description as boxes; CoverageError names
    all holes and double writes; both before anything is moved."""
    begin = time.monotonic()
    live = live_tensors(model)
    before = _objects(model)
    recorder = _run_loader(model, live, list(tensors))
    _check_untouched(model, before)
    filled = _explain(recorder, live)
    placement = Placement(layout_spec, rank, num_ranks)
    memory, faults, untouched = [], [], []
    for number, item in enumerate(live):
        if number not in filled and not item.is_parameter:
            untouched.append(item.name)
            continue
        if derived(item.name):
            if number in filled:
                raise CaptureError(f'the loader writes "{item.name}", which '
                                   "is known as a derived tensor")
            untouched.append(item.name)
            continue
        stored, wrong = _stored(item, filled.get(number, _Filled()),
                                recorder, placement)
        faults.extend(wrong)
        placement.stored.append(stored)
        memory.append(item.tensor)
    if num_ranks == 1:
        faults.extend(_partly_read(placement))
    if faults:
        raise CoverageError(
            f"{len(faults)} faults in what the loader of "
            f"{type(model).__name__} covers: " + "; ".join(faults[:64])
            + ("; ..." if len(faults) > 64 else ""))
    used = {t.name for t in placement.tensors}
    unused = [root.tensor.name for root in recorder.roots
              if root.tensor.name not in used]
    return Captured(placement, memory, unused, untouched,
                    time.monotonic() - begin)


# ---- the live model -------------------------------------------------------


def live_tensors(model: torch.nn.Module) -> list[Live]:
    """The distinct buffers of the model. An alias (a tied head, a view that
    lies within another tensor) is not listed again."""
    named = [(n, t, True) for n, t in
             model.named_parameters(remove_duplicate=False)]
    named += [(n, t, False) for n, t in
              model.named_buffers(remove_duplicate=False)]
    spans: dict[int, list[Live]] = {}
    # The larger first, so that a part finds its whole; named order otherwise.
    order = sorted(range(len(named)), key=lambda i: (
        not named[i][2], -named[i][1].numel()))
    found: dict[int, Live] = {}
    for i in order:
        name, tensor, is_parameter = named[i]
        if tensor.numel() == 0 or tensor.is_meta:
            continue
        dense = _c_contiguous(tensor.detach())
        begin = tensor.storage_offset()
        end = begin + 1 + sum((n - 1) * s for n, s in zip(
            tensor.shape, tensor.stride(), strict=True))
        others = spans.setdefault(storage_of(tensor), [])
        clash = next((o for o in others if o.begin < end and begin < o.end),
                     None)
        if clash is not None:
            if clash.begin <= begin and end <= clash.end:
                continue
            raise CaptureError(f'live tensors "{clash.name}" and "{name}" '
                               "share a part of their memory")
        if dense is None:
            if is_parameter:
                raise CaptureError(
                    f'live tensor "{name}" of shape {tuple(tensor.shape)} and '
                    f"strides {tensor.stride()} is not dense")
            continue
        live = Live(name, dense, is_parameter, begin, end)
        others.append(live)
        found[i] = live
    return [found[i] for i in sorted(found)]


def _c_contiguous(tensor):
    """The tensor with its dimensions in the order of its memory, or None if
    that has gaps or repeats."""
    order = sorted(range(tensor.dim()), key=lambda d: (
        -tensor.stride(d), -tensor.shape[d], d))
    if tensor.is_contiguous():
        return tensor
    permuted = tensor.permute(order)
    return permuted if permuted.is_contiguous() else None


def _objects(model):
    """What must be the same after capture: the very objects, their memory."""
    state = []
    for prefix, module in model.named_modules():
        for kind in (module._parameters, module._buffers):
            for name, tensor in kind.items():
                state.append((f"{prefix}.{name}", tensor,
                              None if tensor is None else
                              (storage_of(tensor), tensor.storage_offset(),
                               tuple(tensor.shape), tensor.stride())))
    return state


def _check_untouched(model, before):
    after = _objects(model)
    changed = [a[0] for a, b in zip(before, after)
               if a[0] != b[0] or a[1] is not b[1] or a[2] != b[2]]
    if changed or len(before) != len(after):
        raise CaptureError("the loader replaces live tensors "
                           f"{listed(changed)} instead of writing into them; "
                           "start the engine again before it serves")


# ---- running the loader ---------------------------------------------------


def _run_loader(model, live, tensors) -> Recorder:
    unknown = [f"{t.name} ({t.dtype})" for t in tensors
               if t.dtype not in DTYPES]
    if unknown:
        raise CaptureError(f"unknown dtypes of {listed(unknown)}")
    recorder = Recorder({storage_of(t): t for t in _all_tensors(model)})
    fed = []

    def feed():
        for tensor in tensors:
            fed.append(tensor)
            yield tensor.name, recorder.feed(tensor, DTYPES[tensor.dtype])

    try:
        with torch.no_grad(), recorder:
            model.load_weights(feed())
    except WeftError:
        raise
    except Exception as error:
        at = (f'on tensor "{fed[-1].name}" of shape {fed[-1].shape}'
              if fed else "before the first tensor")
        reason = " ".join(str(error).split()) or "no reason given"
        raise CaptureError(f"the loader of {type(model).__name__} failed {at}: "
                           f"{type(error).__name__}: {reason}") from error
    reads = recorder.unresolved_reads()
    if reads:
        raise CaptureError("the loader decides by the values of "
                           f"{listed(reads)}")
    return recorder


def _all_tensors(model):
    yield from (t for _, t in model.named_parameters(remove_duplicate=False))
    yield from (t for _, t in model.named_buffers(remove_duplicate=False))


# ---- explaining the writes ------------------------------------------------


def _explain(recorder, live) -> dict[int, _Filled]:
    by_storage: dict[int, list[int]] = {}
    for number, item in enumerate(live):
        by_storage.setdefault(storage_of(item.tensor), []).append(number)
    filled: dict[int, _Filled] = {}
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
                         filled.setdefault(number, _Filled()))
        except (_Refused, Irregular) as error:
            refusals.setdefault(item.name, str(error))
    if refusals:
        raise CaptureError("no description as boxes for " + "; ".join(
            f'"{name}": {why}' for name, why in refusals.items()))
    return filled


class _Refused(Exception):
    pass


def _explain_one(index, write: Write, item: Live, recorder, into: _Filled):
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
    for piece in pieces_of(view.shape, view.strides, view.offset,
                           recorder.roots[root].tensor.shape,
                           strides, at, shape):
        into.pieces.append((root, piece))
        into.order.append(index)


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


# ---- coverage -------------------------------------------------------------


def _stored(item: Live, filled: _Filled, recorder, placement):
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


def _partly_read(placement: Placement) -> list[str]:
    """One rank holds everything, so a logical tensor of which it takes a part
    has another shape than the model believes."""
    read: dict[int, list[Box]] = {}
    for stored in placement.stored:
        for fragment in stored.fragments:
            read.setdefault(fragment.tensor, []).append(fragment.box)
    faults = []
    for index, taken in read.items():
        tensor = placement.tensors[index]
        faults += [f'{boxes.text(hole)} of logical tensor "{tensor.name}" '
                   f"{tensor.shape} goes nowhere"
                   for hole in boxes.subtract(boxes.whole(tensor.shape), taken)]
    return faults


