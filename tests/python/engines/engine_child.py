"""A real vLLM in a process of its own (with its tensor- or pipeline-parallel
workers), and what a test asks of it. Used through child_processes.Child."""

import gc
import hashlib
import multiprocessing
import os
import pathlib

import torch

import engines


class Engine:
    """Starts from the checkpoint in `folder`."""

    def __init__(self, folder, tp=1, pp=1):
        _start_quickly()
        self._llm = engines.start(folder, tensor_parallel_size=tp,
                                  pipeline_parallel_size=pp,
                                  kv_cache_memory_bytes=16 << 20)
        if pp > 1:
            self._llm.collective_rpc(warm_up)
        if tp * pp > 1:
            self._llm.collective_rpc(unlink_shared_memory)

    def state(self):
        """For each worker {name: (shape, dtype, SHA-256 of the bytes)} of all
        parameters and buffers, aliases too."""
        return self._llm.collective_rpc(state_of)

    def addresses(self):
        """For each worker {name: address}."""
        return self._llm.collective_rpc(addresses_of)

    def parameters(self):
        """For each worker the names of its parameters."""
        return self._llm.collective_rpc(parameters_of)

    def answers(self):
        return engines.answers(self._llm, tokens=8)

    def poison(self):
        """Every parameter of every worker becomes NaN."""
        self._llm.collective_rpc(poison)

    def connect(self, catalog, model):
        self._llm.init_weight_transfer_engine({"init_info": {
            "catalog": catalog, "model": model, "timeout": 60}})

    def refit(self, version):
        self._llm.start_weight_update()
        self._llm.update_weights({"update_info": {"version": version}})
        self._llm.finish_weight_update(weight_version=version)
        return self._llm.get_weight_version()

    def placements(self):
        """What each worker captured of its own loader."""
        return self._llm.collective_rpc(placement_of)

    def close(self):
        engines.stop(self._llm)


def _start_quickly():
    """Seconds instead of minutes, with several engines on two cores.

    vLLM spawns the workers of a CPU engine, so that OpenMP reads its settings
    anew in each; with one thread nothing is to be read, and forked ones need
    not import vLLM again, which is nearly all of their start. An eager engine
    still compiles one small function of its sampler with the first request,
    in each worker."""
    from vllm.v1.executor import multiproc_executor
    multiproc_executor.get_mp_context = (
        lambda: multiprocessing.get_context("fork"))
    torch._dynamo.config.disable = True
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # whole GiB only
    os.environ["VLLM_HOST_IP"] = "127.0.0.1"
    gc.freeze()  # what was imported is never garbage


# ---- what runs in a worker --------------------------------------------------


def unlink_shared_memory(worker):
    """vLLM leaves 8 MB in /dev/shm for each group of workers. All of them have
    it mapped by now, so its names are of no more use."""
    name = os.environ["VLLM_DIST_IDENT"]
    for file in pathlib.Path("/dev/shm").glob(f"{name}-*"):
        file.unlink(missing_ok=True)


def warm_up(worker):
    """vLLM 0.32 makes the buffers between pipeline stages in a first dummy
    run, which it leaves out for an eager engine on the CPU; the first request
    would fail without them."""
    worker.model_runner.profile_run()


def _tensors(worker):
    model = worker.get_model()
    return [*model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False)]


def state_of(worker):
    return {name: (tuple(tensor.shape), str(tensor.dtype), _digest(tensor))
            for name, tensor in _tensors(worker)}


def _digest(tensor):
    values = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(values.numpy()).hexdigest()


def addresses_of(worker):
    return {name: tensor.data_ptr() for name, tensor in _tensors(worker)}


def parameters_of(worker):
    return [name for name, _ in worker.get_model().named_parameters()]


def poison(worker):
    with torch.no_grad():
        for parameter in worker.get_model().parameters():
            parameter.fill_(float("nan"))


def placement_of(worker):
    return worker.weight_transfer_engine._target.placement
