"""What transformers writes of a model's tensors, learnt from transformers.

transformers 5 holds some tensors under other names than files have, stacked or
in one, and undoes that when it saves. Here it undoes it on meta tensors: each
tensor for a file that comes out as a view shows which box of which tensor of
the memory it is. Nothing is copied, and no name of a family stands here.
"""

from __future__ import annotations

import math
import sys
from typing import Mapping, Sequence

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from weft.layout import contiguous_strides
from weft.torch.names import plain_name
from weft.torch.windows import Window

Shapes = Mapping[str, Sequence[int]]  # by plain name


def saved_windows(model: nn.Module,
                  shapes: Shapes) -> dict[str, list[Window]] | None:
    """{plain name: the tensors of files that its memory holds}; None for what
    is no model of a transformers that would know. ValueError names what is not
    cut out of one tensor."""
    if not _is_of_transformers(model):
        return None
    from transformers import core_model_loading
    skeleton = _skeleton(model, shapes)
    if skeleton.is_custom_code():
        return None
    tensors = {name: torch.empty(tuple(shape), device="meta")
               for name, shape in shapes.items()}
    kind = type(skeleton).__name__
    try:
        with torch.no_grad(), _NoCopies():
            saved = core_model_loading.revert_weight_conversion(
                skeleton, dict(tensors))
    except Exception as error:
        raise ValueError(
            f"how files hold the tensors of {kind} cannot be learnt from "
            f"transformers ({type(error).__name__}: {error}); describe them "
            f"with weft.torch.tensors") from error
    return _cut_out(kind, tensors, saved)


def _cut_out(kind: str, tensors: dict[str, torch.Tensor],
             saved: dict[str, torch.Tensor]) -> dict[str, list[Window]]:
    owners = {_storage(tensor): name for name, tensor in tensors.items()}
    windows: dict[str, list[Window]] = {name: [] for name in tensors}
    wrong = []
    for name, tensor in saved.items():
        owner = owners.get(_storage(tensor))
        window = owner and _window(name, tensor, tensors[owner].shape)
        if window:
            windows[owner].append(window)
        else:
            wrong.append(name)
    wrong += [name for name, found in windows.items() if tensors[name].numel()
              != sum(math.prod(w.memory_extent) for w in found)]
    if wrong:
        raise ValueError(
            f"files of {kind} hold tensors that are not cut out of one tensor "
            f"of its memory, among them \"{wrong[0]}\"; describe its tensors "
            f"with weft.torch.tensors")
    return windows


def _window(name: str, view: torch.Tensor,
            shape: Sequence[int]) -> Window | None:
    """None unless the view is a box of the whole tensor of `shape`, less
    leading dimensions in which it is one index wide."""
    dropped = len(shape) - view.dim()
    strides = contiguous_strides(shape)
    if dropped < 0 or any(
            n != 1 and stride != expected for n, stride, expected in zip(
                view.shape, view.stride(), strides[dropped:], strict=True)):
        return None
    extent = (1,) * dropped + tuple(view.shape)
    begin, rest = [], view.storage_offset()
    for stride in strides:
        begin.append(rest // stride if stride else 0)
        rest -= begin[-1] * stride
    if any(b + n > whole for b, n, whole in zip(begin, extent, shape,
                                                strict=True)):
        return None
    return Window(name, tuple(view.shape), (0,) * view.dim(), tuple(begin),
                  extent)


class _NoCopies(TorchDispatchMode):
    """What would be copied stays a view of what it is copied from."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.clone.default:
            return args[0]
        return func(*args, **(kwargs or {}))


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


# ---- what transformers wants to see of a model ------------------------------


def _is_of_transformers(module: nn.Module) -> bool:
    """Whether it is a model of a transformers that changes tensors, which the
    program then has imported."""
    modeling = sys.modules.get("transformers.modeling_utils")
    return (modeling is not None
            and "transformers.core_model_loading" in sys.modules
            and isinstance(module, modeling.PreTrainedModel))


def _skeleton(model: nn.Module, shapes: Shapes) -> nn.Module:
    """The model's classes and configs, without wrappers around its parts, and
    without values."""
    root = _bare(model)
    for path, child in model.named_modules():
        if path and _is_of_transformers(child):
            _put(root, plain_name(path + ".").rstrip("."), _bare(child))
    for path, shape in shapes.items():
        _put(root, path, nn.Parameter(
            torch.empty(tuple(shape), device="meta"), requires_grad=False))
    return root


def _bare(model: nn.Module) -> nn.Module:
    kind = type(model)
    if kind.__name__.startswith("FSDP") and len(kind.__bases__) == 2:
        kind = kind.__bases__[1]  # fully_shard puts its own class before
    bare = kind.__new__(kind)
    nn.Module.__init__(bare)
    bare.config = model.config
    if "_weight_conversions" in model.__dict__:  # of the files that it is from
        bare._weight_conversions = model._weight_conversions
    return bare


def _put(root: nn.Module, path: str, value: nn.Module | nn.Parameter) -> None:
    *parents, leaf = path.split(".")
    for name in parents:
        if name not in root._modules:
            root._modules[name] = nn.Module()
        root = root._modules[name]
    if isinstance(value, nn.Module):
        root._modules[leaf] = value
    else:
        root._parameters[leaf] = value
