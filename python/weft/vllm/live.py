"""The buffers of a live model, each once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping

import torch

from weft.dtypes import SAFETENSORS_NAMES

from .errors import CaptureError, listed
from .recorder import storage_of

DTYPES = {name: getattr(torch, word)
          for word, name in SAFETENSORS_NAMES.items()}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass
class Live:
    """One buffer of the model: a tensor with its elements to itself.
    `tensor` is C-contiguous, a view of the live memory (meta for a layer that
    stands in the loader's format)."""

    name: str
    tensor: torch.Tensor
    is_parameter: bool
    begin: int  # elements of the storage
    end: int


def all_tensors(model):
    """(name, tensor) of all parameters and buffers, aliases too."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def live_tensors(model: torch.nn.Module,
                 skeletons: Mapping[str, torch.Tensor] = {}) -> list[Live]:
    """The distinct buffers of the model. An alias (a tied head, a view that
    lies within another tensor) is not listed again. Meta tensors are not
    memory, except `skeletons`, by name, which stand for some."""
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
        if tensor.numel() == 0 or (tensor.is_meta and name not in skeletons):
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


def objects_of(model):
    """What a loader must leave the same: the very objects, their memory."""
    state = []
    for prefix, module in model.named_modules():
        for kind in (module._parameters, module._buffers):
            for name, tensor in kind.items():
                state.append((f"{prefix}.{name}", tensor,
                              None if tensor is None else
                              (storage_of(tensor), tensor.storage_offset(),
                               tuple(tensor.shape), tensor.stride())))
    return state


def check_untouched(model, before):
    """CaptureError names what is not as objects_of() gave it."""
    after = objects_of(model)
    changed = [a[0] for a, b in zip(before, after)
               if a[0] != b[0] or a[1] is not b[1] or a[2] != b[2]]
    if changed or len(before) != len(after):
        raise CaptureError("the loader replaces live tensors "
                           f"{listed(changed)} instead of writing into them; "
                           "start the engine again before it serves")
