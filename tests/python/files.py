"""Safetensors files as oracle.Bits, through the safetensors package."""

import pathlib

import numpy as np
import safetensors
from safetensors import safe_open

from oracle import WORDS, Bits

DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32",
          "U8": "uint8", "I8": "int8", "F8_E4M3": "float8_e4m3fn"}
ITEMS = WORDS | {"U8": np.uint8, "F8_E4M3": np.uint8, "F8_E8M0": np.uint8,
                 "I8": np.int8}


def read(path):
    """{name: Bits}."""
    result = {}
    for name, held in safetensors.deserialize(
            pathlib.Path(path).read_bytes()):
        bits = np.frombuffer(held["data"], ITEMS[held["dtype"]])
        result[name] = Bits(held["dtype"], bits.reshape(held["shape"]))
    return result


def write(path, tensors):
    # Specifications hold addresses: the arrays must outlive them.
    arrays = {name: np.require(t.bits, requirements="C")
              for name, t in tensors.items()}
    safetensors.serialize_file(
        {name: safetensors.TensorSpec(
            dtype=DTYPES[tensors[name].dtype], shape=array.shape,
            data_ptr=array.ctypes.data, data_len=array.nbytes)
         for name, array in arrays.items()}, str(path), {"format": "pt"})


def metadata(path):
    with safe_open(path, "numpy") as file:
        return file.metadata()


def assert_equal(found, expected):
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].bits.shape == tensor.bits.shape, name
        assert found[name].data() == tensor.data(), name
