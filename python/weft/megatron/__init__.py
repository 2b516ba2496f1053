"""Sources from Megatron-Core: what a rank of a trainer publishes.

    source = weft.megatron.source(model_chunks, hf_config)
    source.placement, source.tensors(), source.check()
"""

from weft.megatron.model import source
from weft.torch.source import MemoryMoved, Source, UnsupportedTensors

__all__ = ["MemoryMoved", "Source", "UnsupportedTensors", "source"]
