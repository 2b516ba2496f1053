"""Sources from PyTorch: what a rank of a trainer publishes.

    source = weft.torch.fsdp2(model)       # FSDP2, HSDP, DTensor, DDP, plain
    source = weft.torch.tensors({...})     # anything else, described by hand
    source.placement, source.tensors(), source.check()
"""

from weft.torch.fsdp import fsdp2, tensors
from weft.torch.source import MemoryMoved, Source, UnsupportedTensors

__all__ = ["MemoryMoved", "Source", "UnsupportedTensors", "fsdp2", "tensors"]
