"""Where a layer's own post-processing puts each element of its weights.

The digit probe: a scratch layer whose weights hold one digit of each element's
number is sent through the post-processing, once a digit; what comes out says,
for every place of the packed memory, which element lies there. The live layer
is only read (its settings), its weights are not.

Experts are packed one by one, so two of them are enough: that both are packed
alike, and one behind the other, is part of what is proven.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np
import torch

# bf16 holds whole numbers up to 256, f16 and f32 more: a digit plus one, so
# that 0 stays the mark of padding.
_BASE = 128
_DIGIT_DTYPES = {torch.bfloat16, torch.float16, torch.float32}

# Elements of a scratch layer; decoding needs about twenty bytes for each.
MAX_SCRATCH_ELEMENTS = 1 << 27

_SCRATCH_EXPERTS = 2


class NotProbed(Exception):
    """The post-processing does not just move elements, or cannot be probed."""


@dataclass(frozen=True)
class Packing:
    """Element x of the loader's tensor lies at element
    sum over d of along[d][x[d]] of the live one. Dimension 0 counts experts;
    each takes `expert_elements`, of which `zeros` (one bool each) hold zero."""

    loader_shape: tuple[int, ...]
    live_shape: tuple[int, ...]
    along: tuple[np.ndarray, ...]
    expert_elements: int
    zeros: np.ndarray


def probe(layer: torch.nn.Module,
          skeletons: dict[str, torch.Tensor]) -> dict[str, Packing]:
    """{parameter: its packing} for a layer of experts. `skeletons`: its
    parameters as the loader wants them, on any device; only shapes and dtypes
    are used. Parameters without one must come out as they went in. NotProbed
    says why there is no packing."""
    live = {key: p for key, p in layer._parameters.items() if p is not None}
    lost = skeletons.keys() - live.keys()
    if lost:
        raise NotProbed(f"the layer has lost {', '.join(sorted(lost))}")
    shapes = {key: (min(_SCRATCH_EXPERTS, s.shape[0]), *s.shape[1:])
              for key, s in skeletons.items()}
    sizes = {key: int(np.prod(shape)) for key, shape in shapes.items()}
    _check_probable(skeletons, sum(sizes.values()))
    numbers = _numbers_behind(layer, skeletons, shapes, sizes)
    packings, first = {}, 0
    for key, shape in shapes.items():
        packings[key] = _packing(key, numbers[key], first, shape,
                                 tuple(skeletons[key].shape), live[key])
        first += sizes[key]
    return packings


def scratch_layer(layer: torch.nn.Module,
                  parameters: dict[str, torch.Tensor]) -> torch.nn.Module:
    """A layer with the settings of `layer` and weights of its own, as it is
    before its first post-processing. What that sets stays in the scratch."""
    twin = _shallow(layer)
    method = _shallow(layer.quant_method)
    for holder in (twin, method):  # some backends note what they padded
        for name in ("moe", "moe_config"):
            if name in vars(holder):
                setattr(holder, name, copy(vars(holder)[name]))
    method.moe_kernel = None
    method.moe_quant_config = None
    twin.quant_method = method
    twin._parameters.clear()
    for key, tensor in parameters.items():
        twin._parameters[key] = torch.nn.Parameter(tensor, requires_grad=False)
    return twin


def _shallow(module: torch.nn.Module) -> torch.nn.Module:
    twin = object.__new__(type(module))
    twin.__dict__ = dict(vars(module))
    for kind in ("_parameters", "_buffers", "_modules"):
        if kind in twin.__dict__:
            twin.__dict__[kind] = dict(twin.__dict__[kind])
    return twin


def _check_probable(skeletons, count):
    for key, tensor in skeletons.items():
        if tensor.dtype not in _DIGIT_DTYPES:
            raise NotProbed(f"{key} is {tensor.dtype}, which holds no digits")
    if count > MAX_SCRATCH_ELEMENTS:
        raise NotProbed(f"a scratch layer of {count} elements is too large")


def _numbers_behind(layer, skeletons, shapes, sizes) -> dict[str, np.ndarray]:
    """For each packed place the number of the element that lies there; -1
    where zero does. Elements are numbered through all parameters."""
    count = sum(sizes.values())
    numbers: dict[str, np.ndarray] = {}
    scale = 1
    while scale == 1 or scale < count:
        for key, packed in _packed_digits(layer, skeletons, shapes, sizes,
                                          scale).items():
            if scale == 1:
                numbers[key] = packed.astype(np.int32) - 1
                continue
            known = numbers[key]
            if known.shape != packed.shape or (
                    (known < 0) != (packed == 0)).any():
                raise NotProbed(f"{key} is packed by its values")
            known += np.where(known < 0, 0,
                              (packed.astype(np.int32) - 1) * scale)
        scale *= _BASE
    return numbers


def _packed_digits(layer, skeletons, shapes, sizes, scale):
    """One digit of each element's number plus one, through the layer's
    post-processing."""
    kept = {key: p.detach().clone() for key, p in layer._parameters.items()
            if p is not None and key not in shapes}
    parameters, first = {k: p.clone() for k, p in kept.items()}, 0
    for key, shape in shapes.items():
        number = torch.arange(first, first + sizes[key], dtype=torch.int32)
        first += sizes[key]
        digits = number.div_(scale, rounding_mode="floor").remainder_(_BASE)
        parameters[key] = digits.add_(1).view(shape).to(
            layer._parameters[key].device, skeletons[key].dtype)
    twin = scratch_layer(layer, parameters)
    try:
        with torch.no_grad():
            twin.quant_method.process_weights_after_loading(twin)
    except Exception as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise NotProbed("its post-processing fails on a scratch layer: "
                        f"{type(error).__name__}: {reason}") from error
    packed = {}
    for key, tensor in twin._parameters.items():
        if tensor is None or not tensor.is_contiguous():
            raise NotProbed(f"{key} is not one dense tensor afterwards")
        if key not in shapes:
            if key not in kept or _bytes(tensor) != _bytes(kept[key]):
                raise NotProbed(f"it makes another {key}")
            continue
        found = tensor.detach().to(torch.float32).cpu()
        if not ((found >= 0) & (found <= _BASE)
                & (found == found.floor())).all():
            raise NotProbed(f"{key} holds other values afterwards")
        packed[key] = found.to(torch.uint8).numpy()
    if packed.keys() != shapes.keys():
        raise NotProbed("it drops " + ", ".join(shapes.keys() - packed.keys()))
    return packed


def _bytes(tensor: torch.Tensor) -> bytes:
    """Compares NaN as well."""
    return tensor.detach().flatten().view(torch.uint8).cpu().numpy().tobytes()


def _packing(key, numbers, first, shape, loader_shape, live) -> Packing:
    """`first`: the number of this parameter's first element."""
    scratch, experts = shape[0], loader_shape[0]
    live_shape = tuple(live.shape)
    if (numbers.shape[0] != scratch or live_shape[0] != experts
            or live_shape[1:] != numbers.shape[1:]
            or not live.is_contiguous()):
        raise NotProbed(f"{key} of {scratch} experts becomes {numbers.shape}, "
                        f"the live one of {experts} is {live_shape}")
    places = _places(key, numbers.reshape(-1), first, int(np.prod(shape)))
    along = _separated(key, places.reshape(shape))
    each = int(np.prod(numbers.shape[1:]))
    padding = numbers.reshape(scratch, each) < 0
    if scratch > 1 and (along[0][1] - along[0][0] != each
                        or (padding != padding[0]).any()):
        raise NotProbed(f"the experts of {key} do not lie one behind the other")
    along[0] = np.arange(experts, dtype=np.int64) * each + along[0][0]
    return Packing(loader_shape, live_shape, tuple(along), each, padding[0])


def _places(key, numbers, first, count) -> np.ndarray:
    """Where each element lies: in one place, and no other parameter's here."""
    filled = np.flatnonzero(numbers >= 0)
    inside = numbers[filled] - first
    places = np.full(count, -1, dtype=np.int32)
    if len(filled) == count and ((inside >= 0) & (inside < count)).all():
        places[inside] = filled
    if (places < 0).any():
        raise NotProbed(f"the elements of {key} do not lie in one place each "
                        "of the packed tensor of that name")
    return places


def _separated(key, places: np.ndarray) -> list[np.ndarray]:
    """One sequence a dimension whose sum is `places`, exactly. The first
    carries the offset."""
    origin = places[(0,) * places.ndim]
    along, total = [], np.zeros((), dtype=places.dtype)
    for d in range(places.ndim):
        index = [0] * places.ndim
        index[d] = slice(None)
        line = places[tuple(index)] - (origin if d else 0)
        along.append(line.astype(np.int64))
        total = total[..., None] + line
    if not np.array_equal(total, places):
        raise NotProbed(f"rows and columns of {key} are shuffled together")
    return along
