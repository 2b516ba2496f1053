"""Any tensors as a source or a target: for frameworks without one of their
own."""

from __future__ import annotations

from typing import Any, Mapping

from weft.dtypes import SAFETENSORS_NAMES
from weft.errors import MemoryMoved
from weft.layout import Fragment, Placement, StoredTensor


def dtype_name(name: str, value: Any) -> str:
    """The safetensors name of a tensor's dtype; ValueError names the tensor."""
    text = str(value.dtype)
    known = SAFETENSORS_NAMES.get(text.removeprefix("torch."))
    if known is None:
        raise ValueError(f'"{name}" has the dtype {text}, which Weft does not '
                         "carry")
    return known


class Tensors:
    """A placement with the memory behind it; what Publisher and Receiver take
    as `source` and `target`."""

    def __init__(self, placement: Placement, memory: list[Any],
                 values: Mapping[str, Any]):
        self.placement = placement
        self._memory = memory
        self._values = values
        self._addresses = [_address_of(value) for value in memory]

    def tensors(self) -> list[Any]:
        """One object a stored tensor, in the order of placement.stored."""
        return self._memory

    def check(self) -> None:
        """MemoryMoved if a name has another tensor by now, or its tensor another
        memory: what is in it then is neither published nor received."""
        moved = []
        for stored, before, address in zip(
                self.placement.stored, self._memory, self._addresses,
                strict=True):
            now = self._values.get(stored.name)
            # A mapping may make its tensors anew over the same memory.
            lies_here = now is not None and _address_of(now) == address
            if now is before and not lies_here:
                moved.append(f'"{stored.name}" has other memory')
            elif now is not before and (address is None or not lies_here):
                moved.append(f'"{stored.name}" is '
                             + ("gone" if now is None else "another tensor"))
        if moved:
            raise MemoryMoved(
                f"{len(moved)} of {len(self._memory)} tensors moved since "
                "weft.tensors() was called, write into the old ones or call it "
                "anew: " + "; ".join(moved))


def _address_of(value: Any) -> int | None:
    """None for what cannot move while its memory is borrowed (a bytearray)."""
    if hasattr(value, "data_ptr"):
        try:
            return value.data_ptr()
        except RuntimeError:  # no memory of its own (sparse): refused later
            return None
    described = getattr(value, "__array_interface__", None)
    if described is None:
        described = getattr(value, "__cuda_array_interface__", None)
    return None if described is None else described["data"][0]


def tensors(values: Mapping[str, Any], layout: Placement | None = None) -> Tensors:
    """Tensors by name. Without `layout` each is the whole logical tensor of
    its name, on one rank. With it (see weft.recipe_placement) the names are
    those of its stored tensors, and all must be there, with its shapes and
    dtypes; a value without a dtype of its own (a bytearray) counts by its bytes.
    Each name must keep its tensor, and each tensor its memory: publish() and
    refit() look, and raise MemoryMoved. ValueError names what does not fit, all
    at once."""
    if layout is None:
        layout = _whole(values)
    faults = []
    memory = []
    for stored in layout.stored:
        value = values.get(stored.name)
        if value is None:
            faults.append(f'"{stored.name}" is missing')
            continue
        memory.append(value)
        if not hasattr(value, "dtype"):
            continue
        if tuple(value.shape) != tuple(stored.shape):
            faults.append(f'"{stored.name}" has the shape {tuple(value.shape)}, '
                          f"the layout gives {tuple(stored.shape)}")
        if dtype_name(stored.name, value) != stored.dtype:
            faults.append(f'"{stored.name}" is {value.dtype}, the layout gives '
                          f"{stored.dtype}")
    known = {stored.name for stored in layout.stored}
    faults += [f'"{name}" is not in the layout' for name in values
               if name not in known]
    if faults:
        raise ValueError("; ".join(faults))
    return Tensors(layout, memory, values)


def _whole(values: Mapping[str, Any]) -> Placement:
    placement = Placement("tensors", 0, 1)
    for name, value in values.items():
        shape = tuple(int(n) for n in value.shape)
        dtype = dtype_name(name, value)
        index = placement.tensor(name, dtype, shape)
        fragment = Fragment.row_major(index, [(0, n) for n in shape], shape,
                                      [0] * len(shape))
        placement.stored.append(StoredTensor(name, dtype, shape, [fragment]))
    return placement
