"""Values of the oracle: bits, the stand-in optimiser's steps, casts, cuts.

Tensors are `Bits`: a safetensors dtype name and an array of unsigned integers,
because NumPy has no bfloat16 and because bytes are what is compared.
"""

from typing import NamedTuple

import numpy as np

WORDS = {"BF16": np.uint16, "F16": np.uint16, "F32": np.uint32}


class Bits(NamedTuple):
    dtype: str
    bits: np.ndarray
    is_pinned: bool = False  # a layout's dtype= says nothing about it

    def rows(self, index):
        return Bits(self.dtype, self.bits[index])

    def columns(self, begin, end):
        return Bits(self.dtype, self.bits[:, begin:end])

    def transposed(self):
        """The last two dimensions change places."""
        return Bits(self.dtype, self.bits.swapaxes(-1, -2))

    def pinned(self, dtype):
        return cast(self, dtype)._replace(is_pinned=True)

    def data(self):
        return np.ascontiguousarray(self.bits).tobytes()


SPEC_DTYPES = {"bf16": "BF16", "f16": "F16", "f32": "F32"}  # of dtype=


class Illegal(Exception):
    """The framework itself refuses this layout of this model."""


# ---- values ---------------------------------------------------------------


def synth(name, shape, seed, dtype="BF16"):
    """The made-up weights of `weft synth` (apps/synthetic_values.h)."""
    golden = 0x9E3779B97F4A7C15
    name_hash = 0xCBF29CE484222325
    for byte in name.encode():
        name_hash = (name_hash ^ byte) * 0x100000001B3 % 2**64
    start = name_hash ^ (seed * golden % 2**64)
    count = int(np.prod(shape, dtype=np.int64))
    i = np.arange(1, count + 1, dtype=np.uint64)
    z = i * np.uint64(golden) + np.uint64(start)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    k = (1 + z % np.uint64(255)).astype(np.float32)
    value = np.where(z >> np.uint64(63) != 0, -k, k) * np.float32(2**-13)
    bits = value.astype(np.float32).view(np.uint32).reshape(shape)
    return cast(Bits("F32", bits), dtype)


def step(tensor, number):
    """The stand-in optimiser step (apps/stand_in_step.h)."""
    if number == 0 or tensor.dtype not in WORDS:
        return tensor
    i = np.arange(tensor.bits.size, dtype=np.uint64)
    h = (i * np.uint64(2654435761)).astype(np.uint32) >> np.uint32(16)
    m = ((h.astype(np.int64) + number) % 7 + 1).astype(tensor.bits.dtype)
    return Bits(tensor.dtype, tensor.bits ^ m.reshape(tensor.bits.shape))


def _to_f32_bits(tensor):
    bits = tensor.bits
    if tensor.dtype == "F32":
        return bits
    if tensor.dtype == "BF16":
        return bits.astype(np.uint32) << 16
    with np.errstate(invalid="ignore"):
        return bits.view(np.float16).astype(np.float32).view(np.uint32)


def cast(tensor, dtype):
    """Round to nearest even; NaN stays NaN, quiet, with its upper payload."""
    if tensor.dtype == dtype:
        return tensor
    wide = _to_f32_bits(tensor)
    is_nan = (wide & 0x7FFFFFFF) > 0x7F800000
    if dtype == "F32":
        return Bits(dtype, np.where(is_nan, wide | 0x00400000,
                                    wide).astype(np.uint32))
    if dtype == "BF16":
        odd = (wide >> 16) & 1
        rounded = (wide.astype(np.uint64) + 0x7FFF + odd) >> 16
        nan = (wide >> 16) | 0x40
        return Bits(dtype, np.where(is_nan, nan, rounded).astype(np.uint16))
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = wide.view(np.float32).astype(np.float16).view(np.uint16)
    nan = ((wide >> 16) & 0x8000) | 0x7E00 | ((wide >> 13) & 0x3FF)
    return Bits(dtype, np.where(is_nan, nan, rounded).astype(np.uint16))


def neg_exp(tensor):
    """-exp(x) in float32."""
    wide = _to_f32_bits(tensor).view(np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        value = -np.exp(wide.astype(np.float64)).astype(np.float32)
    return Bits("F32", value.view(np.uint32), True)


def less_one(tensor, dtype):
    """x - 1, computed in float32 and rounded once."""
    value = _to_f32_bits(tensor).view(np.float32) - np.float32(1)
    return cast(Bits("F32", value.view(np.uint32)), dtype or tensor.dtype)


# ---- cuts ------------------------------------------------------------------


def even(n, k, r):
    if n % k:
        raise Illegal(f"{k} does not divide {n}")
    return r * n // k, (r + 1) * n // k


def chunk(n, k, r):
    """torch.chunk: possibly short or empty at the tail."""
    size = -(-n // k)
    return min(n, r * size), min(n, (r + 1) * size)


def concat(parts):
    assert len({part.dtype for part in parts}) == 1
    return Bits(parts[0].dtype, np.concatenate([part.bits for part in parts]))


def stack(tensors, shape, dtype):
    """The tensors along a new first dimension; possibly none, of `shape`."""
    bits = np.empty((len(tensors), *shape), WORDS[dtype])
    for i, tensor in enumerate(tensors):
        assert (tensor.dtype, tensor.bits.shape) == (dtype, shape)
        bits[i] = tensor.bits
    return Bits(dtype, bits)


def segments(tensor, sizes):
    """The rows of a tensor that several lie one below the other in."""
    assert sum(sizes) == len(tensor.bits), (sizes, tensor.bits.shape)
    ends = np.cumsum(sizes)
    return [tensor.rows(slice(end - size, end))
            for size, end in zip(sizes, ends, strict=True)]


def padded_rows(tensor, padded, begin, end):
    """Rows [begin, end) of the tensor with zero rows up to `padded`."""
    zeros = np.zeros((padded - tensor.bits.shape[0], tensor.bits.shape[1]),
                     tensor.bits.dtype)
    return concat([tensor, Bits(tensor.dtype, zeros)]).rows(slice(begin, end))
