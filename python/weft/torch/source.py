"""Source: what this rank publishes, and the memory it lies in."""

from __future__ import annotations

from typing import Callable, Mapping, NamedTuple

import torch

from weft.dtypes import SAFETENSORS_NAMES
from weft.errors import MemoryMoved
from weft.layout import Fragment, Placement, StoredTensor

# The names that safetensors gives to dtypes.
DTYPE_NAMES = {getattr(torch, word): name
               for word, name in SAFETENSORS_NAMES.items()}


class UnsupportedTensors(ValueError):
    """Tensors that cannot be published; the message names every one of them."""


class Faults:
    """Collects what is wrong, so that one exception can tell all of it."""

    def __init__(self) -> None:
        self._messages: list[str] = []

    def add(self, message: str) -> None:
        self._messages.append(message)

    def raise_if_any(self) -> None:
        """UnsupportedTensors with every message, if there is one."""
        if self._messages:
            count = len(self._messages)
            raise UnsupportedTensors(
                f"{count} {'fault' if count == 1 else 'faults'}: " +
                "; ".join(self._messages))


class _Address(NamedTuple):
    """Where a tensor's memory is, as far as a transfer depends on it."""

    pointer: int
    device: str
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _address_of(tensor: torch.Tensor) -> _Address:
    return _Address(tensor.data_ptr(), str(tensor.device), str(tensor.dtype),
                    tuple(tensor.shape), tuple(tensor.stride()))


class Source:
    """The placement of this rank and its live tensors.

    `placement.stored[i]` describes `tensors()[i]`. The tensors are detached
    views of the trainer's own memory, never copies: an in-place optimiser step
    shows in them. Anything that gives a parameter new memory (`module.to()`,
    CPU offload, assigning `.data`) makes the source stale, which `check()`
    tells. Not thread-safe, like the module it was made from.
    """

    def __init__(self, placement: Placement, held: Mapping[str, torch.Tensor],
                 read: Callable[[], Mapping[str, torch.Tensor]]) -> None:
        """`held`: by stored name, in the order of placement.stored. `read`
        returns the same tensors as the trainer holds them at call time."""
        assert [s.name for s in placement.stored] == list(held)
        self.placement = placement
        self._held = dict(held)
        self._read = read
        self._addresses = {n: _address_of(t) for n, t in held.items()}

    def tensors(self) -> list[torch.Tensor]:
        """This rank's memory, one a stored tensor, C-contiguous, detached."""
        return list(self._held.values())

    def check(self) -> None:
        """MemoryMoved if a tensor is gone, or its address, device, dtype,
        shape or strides are no longer those of when the source was made."""
        now = self._read()
        moved = []
        for name, before in self._addresses.items():
            if name not in now:
                moved.append(f'"{name}" is gone')
                continue
            after = _address_of(now[name])
            if after != before:
                moved.append(f'"{name}": ' + _difference(before, after))
        if moved:
            raise MemoryMoved(
                f"{len(moved)} of {len(self._addresses)} published tensors "
                f"moved since the source was made, make a new one: " +
                "; ".join(moved))


def _difference(before: _Address, after: _Address) -> str:
    texts = []
    for field, old, new in zip(_Address._fields, before, after, strict=True):
        if old != new:
            show = hex if field == "pointer" else str
            texts.append(f"{field} was {show(old)} and is {show(new)}")
    return ", ".join(texts)


def storage_fault(name: str, tensor: torch.Tensor) -> str | None:
    """Why the memory of a local tensor cannot be published, or None."""
    # Subclasses keep their values in other tensors (scales, packed bits).
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return (f'"{name}" is a {type(tensor).__name__}, whose memory is not '
                f"plain elements; publish the tensors that it is made of with "
                f"weft.torch.tensors")
    if tensor.device.type == "meta":
        return (f'"{name}" is on the meta device and has no memory; '
                f"materialise the module (to_empty and load) first")
    if tensor.layout != torch.strided:
        return (f'"{name}" has layout {tensor.layout}; only strided is '
                f"supported")
    if tensor.dtype not in DTYPE_NAMES:
        return (f'"{name}" has dtype {tensor.dtype}, which is none of '
                f"safetensors; convert it")
    if not tensor.is_contiguous():
        return (f'"{name}" of shape {tuple(tensor.shape)} has strides '
                f"{tuple(tensor.stride())}; make it contiguous before the "
                f"source is made")
    return None


def stored_tensor(name: str, tensor: torch.Tensor,
                  fragments: list[Fragment]) -> StoredTensor:
    """The description of a local tensor without storage_fault."""
    return StoredTensor(name, DTYPE_NAMES[tensor.dtype],
                        tuple(int(n) for n in tensor.shape), fragments)
