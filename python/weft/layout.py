"""What one rank holds, in the words of Weft: logical tensors, stored tensors
and the fragments that join them. Plain data; nothing here needs torch.

A *logical tensor* is a tensor of the Hugging Face checkpoint: name, dtype,
shape. A *stored tensor* is one buffer as this rank really holds it,
C-contiguous. A *fragment* says "this box of that logical tensor lies here in
this stored tensor": for a logical index x in its box,

    element offset = offset + sum over dims d of digits(x[d] - box[d].begin)

where digits() reads a number in the mixed radix of the dimension's modes,
the first mode being the least significant: with modes ((6, 1), (4, 8)) the
number n lies at (n % 6) * 1 + (n // 6) * 8.

dtypes are the names of safetensors: "BF16", "F16", "F32", "F8_E4M3", ...
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Iterable, Sequence

Range = tuple[int, int]  # [begin, end)
Box = tuple[Range, ...]
Modes = tuple[tuple[int, int], ...]  # (extent, stride) of one dimension


@dataclass(frozen=True)
class LogicalTensor:
    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Fragment:
    """A box of logical tensor `tensor` (index into Placement.tensors)."""

    tensor: int
    box: Box
    modes: tuple[Modes, ...]  # one a dimension
    offset: int = 0  # elements
    # What is stored of a logical value x: "none" (x itself), "neg_exp"
    # (-exp(x)), "plus_one", "minus_one".
    transform: str = "none"

    @staticmethod
    def row_major(tensor: int, box: Sequence[Range],
                  stored_shape: Sequence[int],
                  origin: Sequence[int]) -> Fragment:
        """The box lies as a block of a stored tensor of the same rank, its
        first element at stored coordinate `origin`."""
        strides = contiguous_strides(stored_shape)
        return Fragment(
            tensor, tuple((int(b), int(e)) for b, e in box),
            tuple(((int(e) - int(b), stride),)
                  for (b, e), stride in zip(box, strides, strict=True)),
            sum(o * s for o, s in zip(origin, strides, strict=True)))


@dataclass
class StoredTensor:
    """One buffer of this rank; `name` is the framework's own. Each element is
    in one fragment or in one box of `zero_fill` (stored coordinates: padding
    that holds zero). A source may leave holes, a target may not."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    fragments: list[Fragment] = field(default_factory=list)
    zero_fill: list[Box] = field(default_factory=list)


@dataclass(frozen=True)
class ScaledTensor:
    """Logical matrix `tensor` is held in FP8 by stored tensors of dtype
    F8_E4M3; logical tensor `scales` (F32) has a scale for each block of
    block_rows x block_cols elements (0: all). rule: "float", or "power_of_two"
    for scales that are. Of a source: its publisher is to offer it so."""

    tensor: int
    scales: int
    block_rows: int = 128
    block_cols: int = 128
    rule: str = "float"


@dataclass
class Placement:
    """Everything that one rank of a mesh holds. All ranks of a mesh have the
    same `layout_spec` and `num_ranks`."""

    layout_spec: str
    rank: int
    num_ranks: int
    tensors: list[LogicalTensor] = field(default_factory=list)
    stored: list[StoredTensor] = field(default_factory=list)
    scaled: list[ScaledTensor] = field(default_factory=list)
    _index: dict[str, int] = field(default_factory=dict, repr=False,
                                   compare=False)

    def tensor(self, name: str, dtype: str, shape: Sequence[int]) -> int:
        """The index of a logical tensor, added if it is new. ValueError if the
        name is known with another dtype or shape."""
        new = LogicalTensor(name, dtype, tuple(int(n) for n in shape))
        index = self._index.setdefault(name, len(self.tensors))
        if index == len(self.tensors):
            self.tensors.append(new)
        known = self.tensors[index]
        if known != new:
            raise ValueError(f'tensor "{name}" is {known.dtype} {known.shape} '
                             f"and {new.dtype} {new.shape}")
        return index


    def scale(self, names: Iterable[str], block_rows: int = 128,
              block_cols: int = 128, rule: str = "float") -> None:
        """Declares scales "NAME_scale_inv" for those of `names` that this rank
        knows. ValueError for what is no matrix."""
        known = {tensor.name: i for i, tensor in enumerate(self.tensors)}
        for name in names:
            if name not in known:
                continue
            matrix = self.tensors[known[name]]
            if len(matrix.shape) != 2:
                raise ValueError(f'"{name}" has shape {matrix.shape}: only '
                                 "matrices have block scales")
            rows, cols = (-(-extent // (block or max(extent, 1)))
                          for extent, block in zip(
                              matrix.shape, (block_rows, block_cols)))
            scales = self.tensor(f"{name}_scale_inv", "F32", (rows, cols))
            self.scaled.append(ScaledTensor(known[name], scales, block_rows,
                                            block_cols, rule))
        self.scaled.sort(key=lambda scaled: scaled.tensor)


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides in elements of a C-contiguous tensor."""
    strides = [1] * len(shape)
    for d in range(len(shape) - 2, -1, -1):
        strides[d] = strides[d + 1] * int(shape[d + 1])
    return tuple(strides)
