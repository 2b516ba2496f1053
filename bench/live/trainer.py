"""One FSDP2 rank of the benchmark; commands come from live_refit.py."""

import argparse
import pathlib
import time

import parts
import torch
import torch.distributed as dist
import transformers
from torch.distributed.checkpoint import state_dict as full_state
from torch.distributed.fsdp import fully_shard

import weft


class Trainer:
    def __init__(self, args):
        self.hand_over_address = args.hand_over
        self.hand_over = None
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            args.checkpoint, dtype=torch.bfloat16)
        for layer in self.model.model.layers:
            fully_shard(layer)
        fully_shard(self.model)
        self.publisher = weft.Publisher(args.catalog, "bench",
                                        weft.torch.fsdp2(self.model))

    def publish(self, step):
        """The seconds that it took."""
        started = time.perf_counter()
        self.publisher.publish(step)
        return time.perf_counter() - started

    def change(self):
        """What an optimizer step does to every parameter."""
        with self.publisher.update(), torch.no_grad():
            for parameter in self.model.parameters():
                parameter.to_local().mul_(1.015625)

    def save(self, folder):
        """Gathers everything; rank 0 writes a checkpoint."""
        options = full_state.StateDictOptions(full_state_dict=True,
                                              cpu_offload=True)
        weights = full_state.get_model_state_dict(self.model, options=options)
        if dist.get_rank() == 0:
            self.model.save_pretrained(folder, state_dict=weights)

    def broadcast(self):
        """Gathers tensor by tensor; rank 0 passes each on to the engine."""
        if self.hand_over is None and dist.get_rank() == 0:
            self.hand_over = parts.hand_over_group(self.hand_over_address, 0)
        with torch.no_grad():
            for parameter in self.model.parameters():
                whole = parameter.full_tensor()
                if self.hand_over is not None:
                    self.hand_over.broadcast(whole, 0).wait()

    def names(self):
        """[(name, shape)] in the order of broadcast()."""
        return [(name, list(parameter.shape))
                for name, parameter in self.model.named_parameters()]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True)
    parser.add_argument("--catalog", required=True)
    parser.add_argument("--hand-over", required=True)
    args = parser.parse_args()
    dist.init_process_group("gloo")
    parts.serve(Trainer(args))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
