"""Layers whose live weights are a permutation of what their loader writes.

Such a layer is captured through a skeleton in the loader's format; what comes
out is carried over to the packed memory with the map that the probe found.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import Iterator

import numpy as np
import torch

from weft.layout import Fragment, StoredTensor, contiguous_strides

from .errors import CaptureError
from .nested import boxes_of, coordinates, segments_of, storage_shape
from .probe import NotProbed, Packing, probe, scratch_layer

# Of the post-processing of experts in these backends there is a scratch run:
# it keeps weights in the layer's parameters and nowhere else. FlashInfer's are
# refused by name until the probe has been run on a GPU.
_PACKING_METHODS = {"UnquantizedFusedMoEMethod"}
_PACKING_BACKENDS = {"CPU"}


def packs_its_weights(method) -> bool:
    """Whether layers with this method are packed in a way that a probe can
    learn."""
    backend = getattr(method, "unquantized_backend", None)
    return (type(method).__name__ in _PACKING_METHODS
            and getattr(backend, "name", None) in _PACKING_BACKENDS)


@dataclass
class PackedLayer:
    """`skeletons`: meta tensors in the loader's format, with its attributes.
    `packings` is empty, and `reason` says why, if the probe found no map."""

    name: str
    module: torch.nn.Module
    skeletons: dict[str, torch.nn.Parameter]
    packings: dict[str, Packing]
    reason: str = ""


def packed_layers(model: torch.nn.Module) -> list[PackedLayer]:
    """One probe for each distinct layer: layers of the same class, settings
    and shapes are packed alike."""
    probed: dict[tuple, tuple[dict[str, Packing], str]] = {}
    layers = []
    for name, module in model.named_modules():
        method = getattr(module, "quant_method", None)
        if method is None or not packs_its_weights(method):
            continue
        skeletons = _skeletons(module)
        kind = _kind(module, skeletons)
        if kind not in probed:
            try:
                probed[kind] = probe(module, skeletons), ""
            except NotProbed as error:
                probed[kind] = {}, str(error)
        layers.append(PackedLayer(name, module, skeletons, *probed[kind]))
    return layers


def _skeletons(module) -> dict[str, torch.nn.Parameter]:
    """What vLLM recorded of the layer before it loaded the weights."""
    from vllm.model_executor.model_loader.reload.layerwise import (
        get_layerwise_info)
    from vllm.model_executor.model_loader.reload.meta import to_meta_tensor
    from vllm.model_executor.model_loader.reload.sanitize import (
        restore_layer_refs)

    recorded, _ = get_layerwise_info(module).restore_metadata
    skeletons = {}
    for key, tensor in recorded.items():
        skeleton = restore_layer_refs(to_meta_tensor(tensor), module)
        # A layer-wise reload leaves its own loader on the record, which does
        # nothing once it is over.
        while getattr(getattr(skeleton, "weight_loader", None), "__name__",
                      "") == "online_process_loader":
            skeleton.weight_loader = skeleton.weight_loader.__wrapped__
        skeletons[key] = skeleton
    return skeletons


def _kind(module, skeletons):
    method = module.quant_method
    kernel = getattr(method, "moe_kernel", None)
    return (type(module), type(method), method.unquantized_backend,
            type(getattr(kernel, "fused_experts", None)),
            str(getattr(module, "activation", "")),
            tuple((key, tuple(s.shape), s.dtype,
                   tuple(module._parameters[key].shape)
                   if module._parameters.get(key) is not None else None)
                  for key, s in skeletons.items()))


@contextmanager
def loader_format(layers: list[PackedLayer],
                  tensors: dict[str, dict[str, torch.Tensor]] | None = None
                  ) -> Iterator[dict[str, torch.Tensor]]:
    """The layers hold their skeletons (or `tensors` of that format, by layer),
    and afterwards the very objects that they held before. Gives the tensors by
    their full names."""
    held = [dict(layer.module._parameters) for layer in layers]
    try:
        given = {}
        for layer in layers:
            for key, tensor in (layer.skeletons if tensors is None
                                else tensors[layer.name]).items():
                layer.module._parameters[key] = tensor
                given[f"{layer.name}.{key}"] = tensor
        yield given
    finally:
        for layer, parameters in zip(layers, held, strict=True):
            layer.module._parameters.clear()
            layer.module._parameters.update(parameters)


# ---- by the layer's own post-processing -------------------------------------


@contextmanager
def packed_anew(layer: PackedLayer) -> Iterator[None]:
    """The layer holds memory in the loader's format, to be filled; afterwards
    its own post-processing packs that, and the result is copied into the live
    parameters."""
    from vllm.model_executor.model_loader.reload.meta import (
        materialize_meta_tensor)

    live = layer.module._parameters
    tensors = {}
    for key, skeleton in layer.skeletons.items():
        with live[key].device:
            tensors[key] = materialize_meta_tensor(skeleton)
    with loader_format([layer], {layer.name: tensors}):
        yield
    others = {key: p.detach().clone() for key, p in live.items()
              if p is not None and key not in tensors}
    twin = scratch_layer(layer.module, {
        key: tensor.detach() for key, tensor in tensors.items()} | others)
    with torch.no_grad():
        twin.quant_method.process_weights_after_loading(twin)
        for key in tensors:
            made = twin._parameters[key]
            if made.shape != live[key].shape or made.dtype != live[key].dtype:
                raise CaptureError(
                    f'"{layer.name}.{key}" was packed as {tuple(made.shape)}, '
                    f"its live memory is {tuple(live[key].shape)}")
            live[key].copy_(made)


# ---- from the loader's format to the packed memory ------------------------


class Packer:
    """Carries stored tensors over. What was done for one expert is used again
    for the others."""

    def __init__(self, packing: Packing):
        self._packing = packing
        self._strides = contiguous_strides(packing.loader_shape)
        self._known: dict[tuple, list[Fragment]] = {}

    def packed(self, stored: StoredTensor) -> StoredTensor:
        """`stored` in the loader's format -> the same in packed memory, under
        a shape in which padding is made of boxes."""
        packing = self._packing
        fragments = [moved for fragment in stored.fragments
                     for moved in self._moved(fragment)]
        count = packing.expert_elements
        steps = {stride for sequence in packing.along[1:]
                 for segment in segments_of(sequence)
                 for _, stride in segment.modes}
        inner = storage_shape(steps, count)
        shape = (packing.loader_shape[0], *inner)
        zeros = [((0, shape[0]), *box)
                 for box in boxes_of(packing.zeros.reshape(inner))]
        for box in stored.zero_fill:
            zeros += [(box[0], *part)
                      for part in boxes_of(self._places(box).reshape(inner))]
        return StoredTensor(stored.name, stored.dtype, shape, fragments, zeros)

    def _places(self, box) -> np.ndarray:
        """Which elements of one expert hold the loader's `box`."""
        total = np.zeros((), dtype=np.int64)
        for (begin, end), sequence in zip(box[1:], self._packing.along[1:],
                                          strict=True):
            total = total[..., None] + sequence[begin:end]
        mask = np.zeros(self._packing.expert_elements, dtype=bool)
        mask[(total + self._packing.along[0][0]).reshape(-1)] = True
        return mask

    def _moved(self, fragment: Fragment) -> list[Fragment]:
        expert, inside = divmod(fragment.offset, self._strides[0])
        span = sum((extent - 1) * stride for modes in fragment.modes
                   for extent, stride in modes)
        # Within one expert, whose place in the stack only shifts it.
        if inside + span < self._strides[0]:
            first = replace(fragment, tensor=0, offset=inside, box=tuple(
                (0, end - begin) for begin, end in fragment.box))
            key = (first.box, first.modes, inside)
            if key not in self._known:
                self._known[key] = self._carried(first)
            begins = [begin for begin, _ in fragment.box]
            shift = expert * self._packing.expert_elements
            return [replace(part, tensor=fragment.tensor,
                            offset=part.offset + shift,
                            box=tuple((b + at, e + at) for (b, e), at
                                      in zip(part.box, begins, strict=True)))
                    for part in self._known[key]]
        return self._carried(fragment)

    def _carried(self, fragment: Fragment) -> list[Fragment]:
        """Each logical dimension walks some dimensions of the loader's tensor,
        and no two the same one; so each becomes a sequence of its own."""
        along = self._packing.along
        start = coordinates(fragment.offset, self._packing.loader_shape)
        origin = sum(int(a[int(c)]) for a, c in zip(along, start))
        parts, walked = [], defaultdict(list)
        for d, modes in enumerate(fragment.modes):
            offsets = fragment.offset + _digits(modes)
            sequence = np.zeros(len(offsets), dtype=np.int64)
            for k, c in enumerate(coordinates(offsets,
                                              self._packing.loader_shape)):
                if (c != c[0]).any():
                    walked[k].append(d)
                    sequence += along[k][c] - along[k][c[0]]
            parts.append(segments_of(sequence))
        if any(len(dims) > 1 for dims in walked.values()):
            raise NotProbed("two dimensions of a logical tensor lie in one of "
                            "the packed tensor")
        moved = []
        for combination in product(*parts):
            box = tuple((begin + s.begin, begin + s.end) for (begin, _), s
                        in zip(fragment.box, combination, strict=True))
            moved.append(Fragment(
                fragment.tensor, box, tuple(s.modes for s in combination),
                origin + sum(s.offset for s in combination)))
        return moved


def _digits(modes) -> np.ndarray:
    """digits() of weft/layout.py for all numbers of a dimension."""
    offsets = np.zeros(1, dtype=np.int64)
    for extent, stride in modes:  # the first mode is the innermost
        steps = np.arange(extent, dtype=np.int64) * stride
        offsets = (steps[:, None] + offsets[None, :]).reshape(-1)
    return offsets
