"""The logical tensors of a Hugging Face checkpoint, from file headers only."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from weft.layout import LogicalTensor

from .errors import WeftError


def logical_tensors(folder: str | Path) -> list[LogicalTensor]:
    """All tensors of the safetensors files of `folder`, in file order. If
    there is an index, only the files that it names."""
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    if index.exists():
        named = json.loads(index.read_text())["weight_map"]
        files = [folder / name for name in sorted(set(named.values()))]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise WeftError(f'no safetensors file in "{folder}"')
    tensors: dict[str, LogicalTensor] = {}
    for file in files:
        for tensor in _of_file(file):
            if tensor.name in tensors:
                raise WeftError(f'tensor "{tensor.name}" is twice in the '
                                f'files of "{folder}"')
            tensors[tensor.name] = tensor
    return list(tensors.values())


def _of_file(file: Path) -> list[LogicalTensor]:
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > 100_000_000:  # the format's own limit
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(stream.read(length))
    except (OSError, ValueError, struct.error) as error:
        raise WeftError(f'no safetensors header in "{file}": {error}') from None
    return [LogicalTensor(name, entry["dtype"], tuple(entry["shape"]))
            for name, entry in header.items() if name != "__metadata__"]
