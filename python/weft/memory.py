"""Addresses of tensors, without copies and without importing a framework."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from weft import _native


_DLPACK_CUDA = 2  # kDLCUDA


@dataclass(frozen=True)
class Held:
    """Memory of the host or of a GPU, and what keeps it alive."""

    address: int
    num_bytes: int
    owner: Any


def hold(name: str, value: Any, to_write: bool = False) -> Held:
    """The memory of a tensor, by DLPack (torch, NumPy, CuPy, JAX ...) or the
    buffer protocol (bytearray, memoryview), or the array interfaces of NumPy and
    of CUDA (dtypes of ml_dtypes). It must stay where it is for as long as the
    session lives.

    ValueError that names the tensor if it is not contiguous memory of the host
    or of an NVIDIA GPU, or read-only where it is to be written."""
    if to_write and _is_read_only(value):
        raise ValueError(f'"{name}" is read-only memory; give a tensor that '
                         "can be written")
    if hasattr(value, "detach"):  # torch lends no tensor that wants a gradient
        value = value.detach()
    if hasattr(value, "untyped_storage"):
        _check_torch(name, value)
    device = getattr(value, "device", None)
    if getattr(device, "type", "cpu") not in ("cpu", "cuda"):
        raise ValueError(f'"{name}" lies on {device} and has no memory here')
    try:
        borrowed = (_native.Borrowed.to_write if to_write
                    else _native.Borrowed)(value)
    except (TypeError, BufferError) as error:
        return _by_description(name, value, error)
    if not borrowed.on_host and borrowed.device_type != _DLPACK_CUDA:
        raise ValueError(f'"{name}" lies on {device or borrowed.device_type}; '
                         "memory of the host and of NVIDIA GPUs can be moved")
    if not borrowed.is_contiguous:
        raise _not_contiguous(name, value, borrowed.strides)
    return Held(borrowed.address, borrowed.num_bytes, borrowed)


def _is_read_only(value: Any) -> bool:
    described = getattr(value, "__array_interface__", None)
    if described is not None:
        return described["data"][1]
    try:
        return memoryview(value).readonly
    except TypeError:  # no buffer
        return False


def _check_torch(name: str, value: Any) -> None:
    """ValueError for tensors whose memory is not what they show."""
    if hasattr(value, "to_local"):
        raise ValueError(f'"{name}" is a {type(value).__name__}, of which this '
                         "process holds a part: give to_local() with a layout "
                         "that says which, or use weft.torch.fsdp2")
    layout = str(getattr(value, "layout", "torch.strided"))
    if layout != "torch.strided":
        raise ValueError(f'"{name}" has the layout {layout}; give a dense tensor')
    if value.is_neg():
        raise ValueError(f'"{name}" shows its memory negated; give '
                         "resolve_neg()")
    if value.device.type == "meta" or not value.is_contiguous():
        return  # said with other devices, other arrays
    needed = (value.storage_offset() + value.numel()) * value.element_size()
    there = value.untyped_storage().nbytes()
    if value.numel() and (there < needed or value.data_ptr() == 0):
        raise ValueError(f'"{name}" has {there} of the {needed} bytes of memory '
                         "that it shows: whoever manages it has freed them, give "
                         "it while they are there")


def _by_description(name: str, value: Any, error: Exception) -> Held:
    """For dtypes that DLPack has no word for."""
    described = getattr(value, "__array_interface__", None)
    if described is None and not hasattr(value, "data_ptr"):
        described = getattr(value, "__cuda_array_interface__", None)
    if described is not None:
        if described.get("strides") is not None:
            raise _not_contiguous(name, value, described["strides"])
        return Held(described["data"][0], value.nbytes, value)
    if hasattr(value, "data_ptr") and hasattr(value, "is_contiguous"):
        if not value.is_contiguous():
            raise _not_contiguous(name, value, value.stride())
        return Held(value.data_ptr(), value.numel() * value.element_size(),
                    value)
    raise ValueError(f'"{name}" is a {type(value).__name__}, which lends its '
                     "memory neither by DLPack nor by the buffer protocol: "
                     f"{error}") from error


def _not_contiguous(name: str, value: Any, strides: Any) -> ValueError:
    shape = tuple(getattr(value, "shape", ()))
    return ValueError(f'"{name}" of shape {shape} has the strides {strides}; '
                      "give contiguous memory")


def of_tensors(placement: Any, tensors: list[Any],
               to_write: bool = False) -> list[Held]:
    """The memory of every stored tensor of a placement."""
    stored = placement.stored
    if len(stored) != len(tensors):
        raise ValueError(f"the placement has {len(stored)} stored tensors, "
                         f"{len(tensors)} were given")
    return [hold(each.name, tensor, to_write)
            for each, tensor in zip(stored, tensors, strict=True)]


def check(tensors: Any) -> None:
    """MemoryMoved of a source or target that can tell."""
    check_tensors = getattr(tensors, "check", None)
    if check_tensors is not None:
        check_tensors()


def default_threads() -> int:
    return min(4, len(os.sched_getaffinity(0)))


def addresses(held: list[Held]) -> list[tuple[int, int]]:
    """As weft._native takes them."""
    return [(each.address, each.num_bytes) for each in held]
