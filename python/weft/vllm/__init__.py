"""vLLM as an engine: its live parameters as the target of a refit.

`weft.vllm.target(model, vllm_config)` is all that a receiver needs; `engine`
and `plugin` put it behind vLLM's own weight transfer routes.
"""

from .target import Target, target

__all__ = ["Target", "target"]
