"""Sources from modules: FSDP2, DTensor tensor parallelism, or plain."""

from __future__ import annotations

from typing import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor

from weft.layout import Box, Placement
from weft.torch import source as _source
from weft.torch.dtensor import pieces_of
from weft.torch.mesh import position_of
from weft.torch.modules import local_tensor, published_tensors
from weft.torch.names import CheckpointNames, is_in_tables, plain_name
from weft.torch.saved import saved_windows
from weft.torch.windows import Piece, Window, add_fragments, whole_pieces

# A tensor, or a block of one: the tensor, the box of the checkpoint tensor
# that it holds, and the shape of the checkpoint tensor.
Block = tuple[torch.Tensor, Box, Sequence[int]]


def fsdp2(module: nn.Module, config: object | None = None) -> _source.Source:
    """What this rank holds of `module`, under Hugging Face checkpoint names.

    Parameters and persistent buffers are published where they lie: shards of
    FSDP2 (any dimension, uneven, empty), of HSDP, of DTensor tensor
    parallelism and of both, and plain tensors, which are whole on every rank
    (DistributedDataParallel, or parameters that FSDP2 was told to ignore).
    How files name and stack them is known for some families, and asked of
    transformers for its other models; `config` (one of transformers or its
    dict) says the family in place of the module's own.

    Raises UnsupportedTensors with all faults at once: partial placements,
    meta tensors, local tensors that are not contiguous, tensor subclasses,
    stacked experts of an unknown family. It communicates with nobody.
    """
    faults = _source.Faults()
    module = _unwrap(module)
    named = published_tensors(module)
    try:
        _refuse_flat_parameters(module)
        _refuse_adapters(named)
        position = position_of(module, named.values())
        windows_of = _windows_of(module, config, named)
    except ValueError as error:
        raise _source.UnsupportedTensors(str(error)) from None
    placement = Placement(*position)
    held = {}
    for name, tensor in named.items():
        _add(placement, held, faults, name, tensor,
             lambda shape, name=name: windows_of(name, shape))
    faults.raise_if_any()
    return _source.Source(
        placement, held,
        lambda: {n: local_tensor(t)
                 for n, t in published_tensors(module).items()})


def tensors(mapping: Mapping[str, torch.Tensor | Block],
            layout_spec: str = "tensors", rank: int = 0,
            num_ranks: int = 1) -> _source.Source:
    """Anything else: {checkpoint name: tensor}, the whole tensor or a DTensor,
    or {checkpoint name: (tensor, box, global_shape)}, where the tensor holds
    box ((begin, end), ...) of a checkpoint tensor of global_shape.

    `layout_spec` and `num_ranks` must be the same on all ranks. The mapping is
    looked at again by check(). Raises UnsupportedTensors with all faults.
    """
    faults = _source.Faults()
    if not 0 <= rank < num_ranks:
        faults.add(f"rank {rank} is not one of {num_ranks} ranks")
    placement = Placement(layout_spec, rank, num_ranks)
    held = {}
    for name, value in mapping.items():
        if isinstance(value, tuple):
            _add_block(placement, held, faults, name, value)
        else:
            _add(placement, held, faults, name, value,
                 lambda shape, name=name: [Window.whole(name, shape)])
    faults.raise_if_any()
    return _source.Source(
        placement, held,
        lambda: {n: local_tensor(v[0] if isinstance(v, tuple) else v)
                 for n, v in mapping.items()})


def _unwrap(module: nn.Module) -> nn.Module:
    """What DistributedDataParallel wraps, perhaps compiled, or the module."""
    while isinstance(inner := _uncompiled(module),
                     (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        module = inner.module
    return module


def _uncompiled(module: nn.Module) -> nn.Module:
    """What torch.compile wraps, or the module."""
    return module._modules.get("_orig_mod", module)


def _refuse_adapters(named: Mapping[str, object]) -> None:
    # A file of the model has neither their names nor, unmerged, their values.
    adapters = [name for name in named
                if ".base_layer." in name or ".lora_" in name]
    if adapters:
        raise ValueError(
            f'{len(adapters)} tensors belong to layers with adapters, among '
            f'them "{adapters[0]}"; merge them (merge_and_unload of PEFT) and '
            f"publish the model that comes out, or give the tensors that the "
            f"checkpoint has to weft.torch.tensors")


def _refuse_flat_parameters(module: nn.Module) -> None:
    # With use_orig_params its parameters look plain but are flat pieces.
    flat = [name or "the module" for name, child in module.named_modules()
            if isinstance(child, FullyShardedDataParallel)]
    if flat:
        raise ValueError(f"FSDP1 (FullyShardedDataParallel) is not supported, "
                         f"use fully_shard: {', '.join(flat)}")


def _windows_of(module: nn.Module, config: object | None,
                named: Mapping[str, torch.Tensor]
                ) -> Callable[[str, Sequence[int]], list[Window]]:
    """The checkpoint tensors in a tensor of a name and shape: by our tables
    where they know the family or the user names one, else by transformers."""
    if config is None:
        model = _uncompiled(module)
        config = getattr(model, "config", None)
        if not is_in_tables(config):
            saved = saved_windows(
                model,
                {plain_name(name): t.shape for name, t in named.items()})
            if saved is not None:
                return lambda name, shape: saved[plain_name(name)]
    return CheckpointNames(config).windows


def _add(placement: Placement, held: dict, faults: _source.Faults, name: str,
         tensor: torch.Tensor,
         windows_of: Callable[[Sequence[int]], list[Window]]) -> None:
    """Adds one tensor to the placement and its memory to `held`, or a fault."""
    if type(tensor) not in (torch.Tensor, nn.Parameter) and not isinstance(
            tensor, DTensor):
        faults.add(_source.storage_fault(name, tensor))
        return
    try:
        pieces = (pieces_of(tensor) if isinstance(tensor, DTensor)
                  else whole_pieces(tensor.shape))
        windows = windows_of(tensor.shape)
    except ValueError as error:
        faults.add(f'"{name}": {error}')
        return
    _add_stored(placement, held, faults, name, local_tensor(tensor), windows,
                pieces)


def _add_block(placement: Placement, held: dict, faults: _source.Faults,
               name: str, block: Block) -> None:
    tensor, box, shape = block
    local = tuple(tensor.shape)
    is_inside = len(box) == len(shape) and all(
        0 <= b <= e <= n for (b, e), n in zip(box, shape))
    if not is_inside or tuple(e - b for b, e in box) != local:
        faults.add(f'"{name}": box {tuple(box)} of global shape '
                   f"{tuple(shape)} does not hold a tensor of shape {local}")
        return
    pieces = [[Piece(b, 0, e - b)] for b, e in box]
    _add_stored(placement, held, faults, name, local_tensor(tensor),
                [Window.whole(name, shape)], pieces)


def _add_stored(placement: Placement, held: dict, faults: _source.Faults,
                name: str, local: torch.Tensor, windows: list[Window],
                pieces: list[list[Piece]]) -> None:
    fault = _source.storage_fault(name, local)
    if fault is not None:
        faults.add(fault)
        return
    try:
        fragments = add_fragments(
            placement, _source.DTYPE_NAMES[local.dtype], windows, pieces,
            local.shape)
    except ValueError as error:
        faults.add(f'"{name}": {error}')
        return
    placement.stored.append(_source.stored_tensor(name, local, fragments))
    held[name] = local
