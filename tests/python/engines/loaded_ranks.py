"""What real vLLM ranks hold after their own loader, before a kernel changes
anything: the models of several layouts in processes that share one world."""

import json
import os
from typing import NamedTuple

import torch
import torch.distributed as dist

import files
import oracle

WORDS = {torch.bfloat16: ("BF16", torch.uint16),
         torch.float16: ("F16", torch.uint16),
         torch.float32: ("F32", torch.uint32)}


class Case(NamedTuple):
    folder: str  # of the checkpoint
    spec: str  # "vllm:..."


def import_engine(architectures):
    """What each rank would import for itself; to be called before a fork."""
    import vllm.engine.arg_utils
    import vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method
    import vllm.model_executor.model_loader.default_loader
    from vllm.model_executor.models import registry
    for architecture in architectures:
        registry.ModelRegistry.models[architecture].load_model_cls()


def loaded(cases):
    """In one rank of a world: [{parameter: oracle.Bits}, ...] of all cases,
    which all have as many ranks as the world."""
    return _in_each(cases, lambda case, config, model: {
        name: _bits(parameter.detach())
        for name, parameter in model.named_parameters()})


def captured(cases):
    """In one rank of a world, of each case: the place that the plug-in sees
    (layout, rank, ranks) and how what it captures of the loader compares with
    the recipe."""
    from vllm.config import set_current_vllm_config

    from weft.vllm.capture import capture
    from weft.vllm.checkpoint import logical_tensors
    from weft.vllm.recipe_check import against_recipe
    from weft.vllm.target import mesh_position

    def describe(case, config, model):
        spec, rank, num_ranks = mesh_position(config, model)
        with set_current_vllm_config(config):
            found = capture(model, logical_tensors(case.folder),
                            layout_spec=spec, rank=rank, num_ranks=num_ranks)
        return spec, rank, num_ranks, against_recipe(
            found.placement, case.folder, set())

    return _in_each(cases, describe)


def _in_each(cases, look):
    from vllm.distributed import parallel_state
    from vllm.model_executor.models import utils
    _load_as_on_a_gpu()
    seen = []
    for case in cases:
        # By id(model), which the model before may have had.
        utils._model_to_pp_missing_layer_names.clear()
        config, model = _load(case, parallel_state)
        seen.append(look(case, config, model))
        parallel_state.destroy_model_parallel()
    return seen


def _load_as_on_a_gpu():
    """In this process models are built for Triton's kernels, which take
    experts as they are loaded; and nothing is made of what was loaded."""
    from vllm.distributed.device_communicators import cpu_communicator
    from vllm.model_executor.layers.fused_moe import config
    from vllm.model_executor.layers.fused_moe import (
        unquantized_fused_moe_method as method)
    from vllm.model_executor.layers.fused_moe.oracle import unquantized
    from vllm.model_executor.layers.fused_moe.router import gate_linear
    from vllm.model_executor.model_loader import base_loader
    from vllm.model_executor.models import registry
    from vllm.platforms import cpu
    triton = unquantized.UnquantizedMoeBackend.TRITON
    method.select_unquantized_moe_backend = lambda *args, **kwargs: (
        triton, unquantized.backend_to_kernel_cls(triton)[0])
    config.current_platform = _Gpu(config.current_platform)
    gate_linear.current_platform = _Gpu(gate_linear.current_platform)
    base_loader.process_weights_after_loading = lambda *args, **kwargs: None
    attention = cpu.CpuPlatform.get_attn_backend_cls.__func__
    cpu.CpuPlatform.get_attn_backend_cls = classmethod(
        lambda platform, backend, attn_selector_config, **more: attention(
            platform, backend, attn_selector_config._replace(
                use_sparse=False), **more))
    # Shared memory is for inference, other processes for the wary.
    (cpu_communicator.CpuCommunicator.
     _all_group_ranks_share_shm_group_name) = lambda communicator: False
    registry._LazyRegisteredModel.inspect_model_cls = lambda model: (
        registry._ModelInfo.from_model_cls(model.load_model_cls()))


class _Gpu:
    """A platform that says it is a Hopper GPU: experts without a gate are
    allowed there, and routers are not widened."""

    def __init__(self, platform):
        self._platform = platform

    def __getattr__(self, name):
        return getattr(self._platform, name)

    def is_cuda(self):
        return True

    is_cuda_alike = is_cuda

    def is_device_capability(self, capability):
        return capability == (9, 0)


def _load(case, parallel_state):
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader import default_loader, get_model
    _, keys = oracle.parse_spec(case.spec)
    tp, pp = keys.get("tp", 1), keys.get("pp", 1)
    rank, world = dist.get_rank(), dist.get_world_size()
    config = _config(case.folder, keys, rank, world)
    with set_current_vllm_config(config):
        parallel_state.init_distributed_environment(
            world, rank, "env://", rank, "gloo")
        parallel_state.initialize_model_parallel(tp, pp)
        load = default_loader.DefaultModelLoader.load_weights

        def poison_and_load(loader, model, model_config):
            for parameter in model.parameters():
                parameter.data.fill_(float("nan"))
            load(loader, model, model_config)

        default_loader.DefaultModelLoader.load_weights = poison_and_load
        try:
            model = get_model(vllm_config=config)
        finally:
            default_loader.DefaultModelLoader.load_weights = load
    return config, model


def _config(folder, keys, rank, world):
    from vllm.engine.arg_utils import EngineArgs
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank),
                      WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT="0")
    tp, pp, dp = (keys.get(name, 1) for name in ("tp", "pp", "dp"))
    more = {}
    if "placement" in keys:
        more["expert_placement_strategy"] = keys["placement"]
    config = EngineArgs(
        model=str(folder), tensor_parallel_size=tp, pipeline_parallel_size=pp,
        enable_expert_parallel=keys.get("ep", 1) > 1, skip_tokenizer_init=True,
        enforce_eager=True, dtype="bfloat16", max_model_len=64, max_num_seqs=2,
        disable_log_stats=True, use_tqdm_on_load=False,
        distributed_executor_backend="external_launcher",
        **more).create_engine_config()
    if "redundant" in keys:  # not on a CPU, says the check of the settings
        config.parallel_config.enable_eplb = True
        config.parallel_config.eplb_config.num_redundant_experts = (
            keys["redundant"])
    # Data parallelism proper needs a coordinator; the layers ask for these.
    config.parallel_config.data_parallel_size = dp
    config.parallel_config.data_parallel_rank = rank // (tp * pp)
    config.parallel_config.rank = rank
    return config


def _bits(tensor):
    name, word = WORDS[tensor.dtype]
    return oracle.Bits(name, tensor.contiguous().view(word).numpy())


def write(folder, config, seed):
    """A random checkpoint; returns its tensors as oracle.Bits."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {}
    for name, shape in oracle.logical_shapes(config).items():
        tensors[name] = oracle.synth(name, shape, seed,
                                     oracle.dtype_in_file(name) or "BF16")
    files.write(folder / "model.safetensors", tensors)
    return tensors
