"""Safetensors files as oracle.Bits, through the safetensors package."""

import ml_dtypes
import numpy as np
import safetensors.numpy
from safetensors import safe_open

from oracle import Bits

FLOATS = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32}
NAMES = {np.dtype(dtype): name for name, dtype in FLOATS.items()}


def read(path):
    """{name: Bits}."""
    result = {}
    for name, array in safetensors.numpy.load_file(path).items():
        word = {2: np.uint16, 4: np.uint32}[array.dtype.itemsize]
        result[name] = Bits(NAMES[array.dtype], array.view(word))
    return result


def write(path, tensors):
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(tensor.bits).view(FLOATS[tensor.dtype])
         for name, tensor in tensors.items()}, path)


def metadata(path):
    with safe_open(path, "numpy") as file:
        return file.metadata()


def assert_equal(found, expected):
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].bits.shape == tensor.bits.shape, name
        assert found[name].data() == tensor.data(), name
