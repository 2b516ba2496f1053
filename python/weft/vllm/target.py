"""The live parameters of one vLLM worker as the target of a refit."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Iterable

import torch
from vllm.logger import init_logger

from weft.layout import LogicalTensor, Placement

from .capture import Captured, capture
from .checkpoint import logical_tensors
from .errors import CaptureError, EngineRefused, WeftError, listed
from .loader_path import load
from .nested import NoPattern
from .packed import (PackedLayer, Packer, loader_format, packed_anew,
                     packed_layers, packs_its_weights)
from .probe import NotProbed
from .recipe_check import against_recipe
from .report import Report

logger = init_logger("vllm.weft.target")  # below "vllm" it has a handler

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

    def __init__(self, model: torch.nn.Module, vllm_config,
                 captured: Captured, layers: list[PackedLayer], recipe: str):
        self._model = model
        self._vllm_config = vllm_config
        self._layers = layers
        self._recipe = recipe
        self.captured = captured

    @property
    def placement(self) -> Placement:
        return self.captured.placement

    @property
    def known_tensors(self) -> list[str]:
        """All logical tensors of the model, those of other ranks too."""
        return ([tensor.name for tensor in self.placement.tensors]
                + self.captured.unused)

    def tensors(self) -> list[torch.Tensor]:
        return self.captured.tensors

    def after_refit(self) -> None:
        """Lets the loader fill what only it can, and refreshes what layers
        derive from weights. Call it after each refit and before the engine
        serves; if it raises, the weights may be torn."""
        layers = {layer.name: layer for layer in self._layers}
        for path in self.captured.loader_paths:
            with self._config(), (packed_anew(layers[path.layer])
                                  if path.layer else nullcontext()):
                load(self._model, path.staged, set(path.live))
        for name, module in self._model.named_modules():
            if not _derives(module):
                continue
            before = _addresses(module)
            module.process_weights_after_loading(
                self._vllm_config.model_config.dtype)
            if _addresses(module) != before:
                raise CaptureError(
                    f'the layer "{name}" put its derived tensors elsewhere, '
                    "where compiled code does not look for them")

    def report(self) -> Report:
        """Which tensors take which way, and why; a dict that prints well."""
        return Report.of(self.captured, {layer.name for layer in self._layers},
                         [name for name, module in self._model.named_modules()
                          if _derives(module)], self._recipe)

    def _config(self):
        from vllm.config import set_current_vllm_config
        return set_current_vllm_config(self._vllm_config)


def target(model: torch.nn.Module, vllm_config, *,
           checkpoint: str | Path | None = None,
           tensors: Iterable[LogicalTensor] | None = None) -> Target:
    """The target that `model` is, learnt from its own loader. The logical
    tensors are `tensors`, those of the folder `checkpoint`, or those of the
    engine's own model path.

    On a CPU, layers are switched to multiply with the live parameter itself.
    What cannot be written in place is left to the engine's loader where that
    is safe (see Target.report), and refused with names where it is not."""
    from vllm.config import set_current_vllm_config

    check_live_format(model)
    use_live_weights(model)
    if tensors is None:
        checkpoint = checkpoint or _model_folder(vllm_config)
        tensors = logical_tensors(checkpoint)
    spec, rank, num_ranks = mesh_position(vllm_config, model)
    with set_current_vllm_config(vllm_config):
        layers = packed_layers(model)
        by_loader = {f"{layer.name}.{key}": f"it is packed, and {layer.reason}"
                     for layer in layers if not layer.packings
                     for key in layer.skeletons}
        with loader_format(layers) as skeletons:
            captured = capture(
                model, tensors, layout_spec=spec, rank=rank,
                num_ranks=num_ranks, skeletons=skeletons, by_loader=by_loader,
                derived=lambda name: name.rsplit(".", 1)[-1] in DERIVED)
    # Before it is packed: a recipe knows the loader's format only.
    config = Path(checkpoint or vllm_config.model_config.model)
    recipe = against_recipe(captured.placement, config, {
        name for path in captured.loader_paths for name in path.stored_names})
    if recipe.startswith("differs"):
        logger.warning("the loader of %s is followed, the recipe %s",
                       type(model).__name__, recipe)
    _pack(captured, layers)
    return Target(model, vllm_config, captured, layers, recipe)


def _pack(captured: Captured, layers: list[PackedLayer]) -> None:
    """Carries what was captured in the loader's format over to the memory that
    the layers multiply with."""
    known: dict[int, Packer] = {}
    packers = {}
    for layer in layers:
        for key, packing in layer.packings.items():
            packers[f"{layer.name}.{key}"] = (
                known.setdefault(id(packing), Packer(packing)),
                layer.module._parameters[key].detach())
    stored = captured.placement.stored
    for number, each in enumerate(stored):
        if each.name not in packers:
            continue
        packer, memory = packers[each.name]
        try:
            stored[number] = packer.packed(each)
        except (NotProbed, NoPattern) as error:
            raise EngineRefused(
                f'what the loader writes into "{each.name}" has no description '
                f"in its packed memory: {error}") from error
        captured.tensors[number] = memory.view(stored[number].shape)


def mesh_position(vllm_config,
                  model: torch.nn.Module) -> tuple[str, int, int]:
    """(canonical layout spec, rank, ranks) of this worker. The data-parallel
    replicas of a mixture of experts are one mesh, because they share its
    experts; those of another model hold everything once more each."""
    from vllm.distributed import (get_dp_group, get_pp_group,
                                  get_tensor_model_parallel_rank,
                                  get_tensor_model_parallel_world_size)

    parallel = vllm_config.parallel_config
    has_experts = vllm_config.model_config.is_moe
    context = parallel.prefill_context_parallel_size
    if has_experts and context > 1:
        raise EngineRefused(
            f"prefill_context_parallel_size {context} spreads experts over "
            "the ranks of a context, which is not supported")
    tp = get_tensor_model_parallel_world_size()
    pp = get_pp_group().world_size
    dp = get_dp_group().world_size if has_experts else 1
    degrees = [("tp", tp), ("pp", pp)]
    if has_experts and parallel.enable_expert_parallel:
        degrees.append(("ep", tp * dp))
    degrees.append(("dp", dp))
    keys = ",".join(f"{key}={n}" for key, n in degrees if n > 1)
    # What was asked for is kept only where vLLM can; layers know.
    if any(getattr(module, "expert_placement_strategy", None) == "round_robin"
           for module in model.modules()):
        keys += ",placement=round_robin"
    stage = get_pp_group().rank_in_group
    if dp > 1:
        stage += get_dp_group().rank_in_group * pp
    rank = stage * tp + get_tensor_model_parallel_rank()
    return ("vllm:" + keys if keys else "vllm"), rank, tp * pp * dp


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
        if method is not None and not (_keeps_format(method)
                                       or packs_its_weights(method)):
            unknown.append(f"{name} ({type(method).__name__})")
    if packed:
        raise EngineRefused(
            f"{len(packed)} weights were packed away by the CPU kernels "
            f"({listed(packed, 4)}); " + _how_to_keep(packed))
    if unknown:
        raise EngineRefused(
            f"{len(unknown)} layers rework their weights after loading, which "
            f"direct writes would undo: {listed(unknown, 4)}")


def _how_to_keep(packed: list[str]) -> str:
    if all(name.endswith(".kv_b_proj.weight") for name in packed):
        return "use the attention backend CPU_MLA, which keeps them"
    return ('register weft.vllm.plugin before the model is built, with '
            'weight_transfer_config backend "weft"')


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


def _derives(module) -> bool:
    return any(d in module._parameters or d in module.__dict__
               for d in DERIVED)


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
