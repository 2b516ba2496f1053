"""An engine started from checkpoint A, and what fresh engines of A and B
answer: the two things that a refit is judged by."""

import gc

import engines
import tiny_models
from fake_receiver import fill
from weft.vllm import target


class World:
    def __init__(self, folder, config, a, b, **options):
        assert a.keys() == b.keys()
        self.a, self.b = a, b
        other = engines.start(tiny_models.write(folder / "b", config, b),
                              **options)
        self.answers_b = engines.answers(other)
        engines.stop(other)
        del other  # its finalizer ends the parallel state of this process
        gc.collect()
        self.llm = engines.start(tiny_models.write(folder / "a", config, a),
                                 **options)
        self.answers_a = engines.answers(self.llm)
        assert self.answers_a != self.answers_b

    @property
    def model(self):
        return engines.model_of(self.llm)

    @property
    def vllm_config(self):
        return engines.worker_of(self.llm).vllm_config

    def answers(self):
        return engines.answers(self.llm)

    def target(self, **options):
        return target(self.model, self.vllm_config, **options)

    def close(self):
        engines.stop(self.llm)
        self.llm = None
        gc.collect()


def poison(tensors):
    """So that what a refit forgets is seen."""
    for tensor in tensors:
        tensor.fill_(float("nan"))


def refit(made, checkpoint):
    """`made`: a target."""
    poison(made.tensors())
    fill(made.placement, made.tensors(), checkpoint)
    made.after_refit()


def assert_a_to_b_to_a(world, made):
    for checkpoint, wanted in [(world.b, world.answers_b),
                               (world.a, world.answers_a),
                               (world.b, world.answers_b)]:
        refit(made, checkpoint)
        assert world.answers() == wanted
    refit(made, world.a)
