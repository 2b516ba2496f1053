"""One rank of a real trainer in a process of its own: FSDP2 on a transformers
model, or Megatron-Core. It holds the weights of a checkpoint, publishes them,
and changes them in place. Used through child_processes.Child."""

import os
import warnings

import torch
import torch.distributed as dist
from safetensors.torch import load_file

import weft


def _join(rank, num_ranks, store):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank,
                            world_size=num_ranks)


class _Rank:
    """The subclass has made the module."""

    def __init__(self, catalog, model, source):
        self._source = source
        self._publisher = weft.Publisher(catalog=catalog, model=model,
                                         source=source, timeout=60)

    def train(self, folder, step):
        """Changes the weights in place to those of a checkpoint, as a step of
        an optimiser changes them, and publishes them as version `step`."""
        before = [t.clone() for t in self._source.tensors()]
        with self._publisher.update(timeout=60):
            self.fill(load_file(folder / "model.safetensors"))
        for old, new in zip(before, self._source.tensors(), strict=True):
            assert old.numel() == 0 or not torch.equal(old, new)
        return self._publisher.publish(step=step, timeout=60).version

    def close(self):
        self._publisher.close()
        dist.destroy_process_group()


class FsdpRank(_Rank):
    """`mesh`: (shards,) or (replicas, shards). With the dtype float32 it holds
    values that only become those of the checkpoint by rounding to bfloat16."""

    def __init__(self, rank, store, catalog, model, folder, mesh, dtype):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        from transformers import AutoConfig, AutoModelForCausalLM

        _join(rank, torch.Size(mesh).numel(), store)
        self._module = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(folder), dtype=getattr(torch, dtype))
        names = ("replicate", "shard")[-len(mesh):]
        mesh = init_device_mesh("cpu", tuple(mesh), mesh_dim_names=names)
        for layer in self._module.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(self._module, mesh=mesh)
        self.fill(load_file(folder / "model.safetensors"))
        super().__init__(catalog, model, weft.torch.fsdp2(self._module))

    def fill(self, checkpoint):
        """Torch itself says which part of a tensor is this rank's."""
        from torch.distributed.tensor import distribute_tensor

        left = set(checkpoint)
        with torch.no_grad():
            for name, parameter in self._module.named_parameters():
                value = checkpoint[name].to(parameter.dtype)
                if parameter.dtype == torch.float32:
                    value *= 1 + 2**-10  # half a step of bfloat16 is 2**-9
                parameter.copy_(distribute_tensor(
                    value, parameter.device_mesh, parameter.placements,
                    src_data_rank=None))
                left.remove(name)
        assert not left, left


class MegatronRank(_Rank):
    def __init__(self, rank, store, catalog, model, folder, config, tp, pp):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no Apex, no Transformer Engine
            import megatron_gpt
            import weft.megatron

        _join(rank, tp * pp, store)
        self._config = config
        self._module = megatron_gpt.build(config, tp, pp)
        self.fill(load_file(folder / "model.safetensors"))
        super().__init__(catalog, model,
                         weft.megatron.source(self._module, config))

    def fill(self, checkpoint):
        import megatron_gpt
        megatron_gpt.fill(self._module, self._config, checkpoint)
