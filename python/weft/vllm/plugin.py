"""vLLM's entry point (group vllm.general_plugins). It runs in the front end,
the engine core and each worker, before the model is made, perhaps twice."""

from __future__ import annotations

BACKEND = "weft"


class _LiveLinears:
    """Class attribute of LinearBase that vLLM reads after loading: true keeps
    a linear's weight as it is instead of packing it for oneDNN. It has no
    __set__, so a layer may still set its own."""

    def __get__(self, layer, owner=None):
        from vllm.config import get_current_vllm_config_or_none

        config = get_current_vllm_config_or_none()
        transfer = config.weight_transfer_config if config else None
        return transfer is not None and transfer.backend == BACKEND


def register() -> None:
    """Makes the backend known; engines with another backend notice nothing."""
    from vllm.distributed.weight_transfer.factory import (
        WeightTransferEngineFactory, WeightTransferTrainerFactory)
    from vllm.model_executor.layers.linear import LinearBase

    from . import core_guard

    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(
            BACKEND, "weft.vllm.engine", "WeftEngine")
    if BACKEND not in WeightTransferTrainerFactory._registry:
        WeightTransferTrainerFactory.register_engine(
            BACKEND, "weft.vllm.trainer", "WeftTrainer")
    if "_cpu_skip_gemm_dispatch" not in vars(LinearBase):
        LinearBase._cpu_skip_gemm_dispatch = _LiveLinears()
    core_guard.install()
