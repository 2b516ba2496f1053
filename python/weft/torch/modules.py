"""The tensors of a module that a checkpoint holds, as they live now."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.tensor import DTensor


def published_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers by qualified name, DTensors as such,
    in the order of the module tree. A tensor that is there under several names
    (tied weights) appears once, under its first."""
    sharded = _sharded_parameters(module)
    found: dict[str, torch.Tensor] = {}
    seen: set[object] = set()
    for prefix, owner in module.named_modules():
        prefix += "." if prefix else ""
        own = [(name, sharded.get((id(owner), name), parameter))
               for name, parameter in owner._parameters.items()]
        own += [(name, buffer) for name, buffer in owner._buffers.items()
                if name not in owner._non_persistent_buffers_set]
        for name, tensor in own:
            if tensor is None or not seen.isdisjoint(_identities(tensor)):
                continue
            seen.update(_identities(tensor))
            found[prefix + name] = tensor
    return found


def local_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's memory of a parameter or buffer: no copy, no gradient."""
    with torch.no_grad():
        if isinstance(tensor, DTensor):
            tensor = tensor.to_local()
        return tensor.detach()


def fsdp_states(module: nn.Module) -> list[object]:
    """The FSDP2 states in the module tree, outermost first."""
    try:
        from torch.distributed.fsdp._fully_shard._fsdp_state import (
            _get_module_fsdp_state)
    except ImportError:  # torch without FSDP2
        return []
    states = [_get_module_fsdp_state(child) for child in module.modules()]
    return [state for state in states if state is not None]


def fsdp_groups(module: nn.Module) -> list[object]:
    """The groups of parameters that FSDP2 gathers together."""
    groups = []
    for state in fsdp_states(module):
        several = getattr(state, "_fsdp_param_groups", None)
        if several is None:  # torch 2.10 and older have one at most
            several = [state._fsdp_param_group]
        groups += [group for group in several if group is not None]
    return groups


def _sharded_parameters(module: nn.Module) -> dict[tuple[int, str], object]:
    """{(id of the owning module, name there): sharded parameter}.

    Between forward and backward FSDP2 registers gathered parameters instead of
    the shards. The shards are still the memory that the optimiser steps, so
    they are what is published, whatever is registered right now.
    """
    found = {}
    for group in fsdp_groups(module):
        for parameter in group.fsdp_params:
            info = parameter._module_info
            # FSDP2 looks at what is registered when it is next used; a
            # replaced shard is what the module has, not what FSDP2 kept.
            registered = getattr(info.module, info.param_name)
            is_for_compute = any(
                registered is getattr(parameter, attribute, None)
                for attribute in ("_unsharded_param",
                                  "_sharded_post_forward_param"))
            shard = parameter.sharded_param if is_for_compute else registered
            owners = [(info.module, info.param_name)]
            owners += zip(info.shared_modules, info.shared_param_names,
                          strict=True)
            for owner, name in owners:
                found[id(owner), name] = shard
    return found


def _identities(tensor: torch.Tensor) -> list[object]:
    """What makes two tensors one: the object, or the memory if there is any."""
    keys: list[object] = [id(tensor)]
    local = tensor._local_tensor if isinstance(tensor, DTensor) else tensor
    if (type(local) in (torch.Tensor, nn.Parameter) and local.numel() > 0 and
            local.device.type != "meta" and local.layout == torch.strided):
        keys.append((str(local.device), local.data_ptr(), tuple(local.shape),
                     tuple(local.stride()), local.dtype))
    return keys
