"""Addresses of tensors, without copies and without importing torch."""

from __future__ import annotations

import ctypes
from typing import Any


def address_and_bytes(name: str, value: Any) -> tuple[int, int]:
    """(address, bytes) of host memory that `value` holds. A tensor with
    data_ptr() (torch), else the buffer protocol (NumPy, bytearray, memoryview).
    The memory must stay where it is for as long as the session lives.

    ValueError that names the tensor if it is not contiguous host memory."""
    if hasattr(value, "data_ptr") and hasattr(value, "is_contiguous"):
        if value.device.type != "cpu":
            raise ValueError(f'"{name}" lies on {value.device}; this build '
                             "moves host memory only")
        if not value.is_contiguous():
            raise ValueError(f'"{name}" of shape {tuple(value.shape)} has the '
                             f"strides {value.stride()}; give contiguous memory")
        return value.data_ptr(), value.numel() * value.element_size()
    view = memoryview(value)
    if not view.c_contiguous:
        raise ValueError(f'"{name}" is not contiguous')
    if view.nbytes == 0:
        return 0, 0
    if view.readonly:
        # from_buffer wants a writable one; the address is the same.
        return _readonly_address(view), view.nbytes
    flat = view.cast("B") if view.format != "B" or view.ndim != 1 else view
    return (ctypes.addressof(ctypes.c_char.from_buffer(flat)), view.nbytes)


def _readonly_address(view: memoryview) -> int:
    class _PyBuffer(ctypes.Structure):
        _fields_ = [("buf", ctypes.c_void_p), ("obj", ctypes.py_object),
                    ("len", ctypes.c_ssize_t), ("itemsize", ctypes.c_ssize_t),
                    ("readonly", ctypes.c_int), ("ndim", ctypes.c_int),
                    ("format", ctypes.c_char_p), ("shape", ctypes.c_void_p),
                    ("strides", ctypes.c_void_p), ("suboffsets", ctypes.c_void_p),
                    ("internal", ctypes.c_void_p)]
    buffer = _PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(view),
                                        ctypes.byref(buffer), 0)
    address = buffer.buf
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))
    return address


def of_tensors(placement: Any, tensors: list[Any]) -> list[tuple[int, int]]:
    """Addresses for every stored tensor of a placement, sizes checked."""
    stored = placement.stored
    if len(stored) != len(tensors):
        raise ValueError(f"the placement has {len(stored)} stored tensors, "
                         f"{len(tensors)} were given")
    return [address_and_bytes(each.name, tensor)
            for each, tensor in zip(stored, tensors)]
