"""The live parameters of one vLLM worker as the target of a refit."""

from __future__ import annotations

from pathlib import Path
from typing import Iterable

import torch

from weft.layout import LogicalTensor, Placement

from .capture import Captured, capture
from .checkpoint import logical_tensors
from .errors import CaptureError, EngineRefused, WeftError, listed

# Made by an attention layer from its projections, in no checkpoint.
DERIVED = ("W_UV", "W_UK_T", "W_UK_T_dcp_qrep")

# Quantisation methods whose post-processing leaves the loader's parameter as
# it is (on the CPU: with the plug-in, see use_live_weights).
_PLAIN_METHODS = {"UnquantizedLinearMethod", "UnquantizedEmbeddingMethod"}
# Plain too, where the backend is one of these.
_PLAIN_MOE_METHODS = {"UnquantizedFusedMoEMethod"}
_PLAIN_MOE_BACKENDS = {"TRITON", "BATCHED_TRITON"}


class Target:
    """`placement` and `tensors()` for a receiver; the memory never moves.
    `captured.unused` lists logical tensors that this rank does not hold."""

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype,
                 captured: Captured):
        self._model = model
        self._dtype = dtype
        self.captured = captured

    @property
    def placement(self) -> Placement:
        return self.captured.placement

    def tensors(self) -> list[torch.Tensor]:
        return self.captured.tensors

    def after_refit(self) -> None:
        """Refreshes what layers derive from weights. Call it after each refit
        and before the engine serves."""
        for name, module in self._model.named_modules():
            if not any(d in module._parameters or d in module.__dict__
                       for d in DERIVED):
                continue
            before = _addresses(module)
            module.process_weights_after_loading(self._dtype)
            if _addresses(module) != before:
                raise CaptureError(
                    f'the layer "{name}" put its derived tensors elsewhere, '
                    "where compiled code does not look for them")


def target(model: torch.nn.Module, vllm_config, *,
           checkpoint: str | Path | None = None,
           tensors: Iterable[LogicalTensor] | None = None) -> Target:
    """The target that `model` is, learnt from its own loader. The logical
    tensors are `tensors`, those of the folder `checkpoint`, or those of the
    engine's own model path.

    On a CPU, layers are switched to multiply with the live parameter itself.
    Refuses, with names, what cannot be written in place."""
    from vllm.config import set_current_vllm_config

    check_live_format(model)
    use_live_weights(model)
    if tensors is None:
        tensors = logical_tensors(checkpoint or _model_folder(vllm_config))
    spec, rank, num_ranks = mesh_position(vllm_config)
    with set_current_vllm_config(vllm_config):
        captured = capture(
            model, tensors, layout_spec=spec, rank=rank, num_ranks=num_ranks,
            derived=lambda name: name.rsplit(".", 1)[-1] in DERIVED)
    return Target(model, vllm_config.model_config.dtype, captured)


def mesh_position(vllm_config) -> tuple[str, int, int]:
    """(canonical layout spec, rank, ranks) of this worker. A data-parallel
    replica is a mesh of its own: it holds everything once more."""
    from vllm.distributed import (get_pp_group,
                                  get_tensor_model_parallel_rank,
                                  get_tensor_model_parallel_world_size)

    parallel = vllm_config.parallel_config
    if parallel.enable_expert_parallel and parallel.data_parallel_size > 1:
        raise EngineRefused(
            "experts spread over data-parallel replicas "
            f"(data_parallel_size {parallel.data_parallel_size}) are not "
            "supported yet")
    tp = get_tensor_model_parallel_world_size()
    pp = get_pp_group().world_size
    degrees = [("tp", tp), ("pp", pp)]
    if parallel.enable_expert_parallel:
        degrees.append(("ep", tp))
    keys = ",".join(f"{key}={n}" for key, n in degrees if n > 1)
    rank = get_pp_group().rank_in_group * tp + get_tensor_model_parallel_rank()
    return ("vllm:" + keys if keys else "vllm"), rank, tp * pp


def check_live_format(model: torch.nn.Module) -> None:
    """EngineRefused names each layer whose live memory is not what its loader
    writes."""
    packed, unknown = [], []
    for name, module in model.named_modules():
        for key, tensor in module._parameters.items():
            if tensor is not None and tensor.numel() == 0:
                packed.append(f"{name}.{key}")
        if hasattr(module, "_cpu_unpacked_conv_weight"):
            packed.append(f"{name}.weight")
        method = getattr(module, "quant_method", None)
        if method is not None and not _keeps_format(method):
            unknown.append(f"{name} ({type(method).__name__})")
    if packed:
        raise EngineRefused(
            f"{len(packed)} weights were packed away by the CPU kernels "
            f"({listed(packed, 4)}); register weft.vllm.plugin before the "
            'model is built, with weight_transfer_config backend "weft"')
    if unknown:
        raise EngineRefused(
            f"{len(unknown)} layers rework their weights after loading, which "
            f"direct writes would undo: {listed(unknown, 4)}")


def _keeps_format(method) -> bool:
    name = type(method).__name__
    if name in _PLAIN_METHODS:
        return True
    if name in _PLAIN_MOE_METHODS:
        backend = getattr(method, "unquantized_backend", None)
        return getattr(backend, "name", None) in _PLAIN_MOE_BACKENDS
    # Not a weight method at all (a KV cache scale, for one).
    return not hasattr(method, "create_weights") or name.endswith(
        "KVCacheMethod")


def use_live_weights(model: torch.nn.Module) -> int:
    """On a CPU, vLLM multiplies with a packed copy of some weights that stay
    beside it (heads). Makes those layers multiply with the parameter itself,
    which also frees the copies. Returns the number of such layers."""
    count = 0
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if hasattr(module, "cpu_linear") and weight is not None \
                and weight.numel() > 0:
            module.cpu_linear = torch.nn.functional.linear
            count += 1
    return count


def _addresses(module) -> dict[str, int]:
    return {name: t.data_ptr() for name, t in module._parameters.items()
            if t is not None}


def _model_folder(vllm_config) -> Path:
    name = vllm_config.model_config.model
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    try:
        return Path(snapshot_download(
            name, revision=vllm_config.model_config.revision,
            local_files_only=True))
    except Exception as error:
        raise WeftError(
            f'no local files of model "{name}"; give a folder with its '
            "safetensors headers as checkpoint") from error
