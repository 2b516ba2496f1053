"""Real trainers into real engines: FSDP2 and Megatron-Core ranks publish from
processes of their own, a catalog and the native receivers carry the weights
into a running vLLM, and every byte of every worker, and what it answers, is
compared with an engine that loaded the same checkpoint from disk.

Engines and trainers start on A; each trainer in turn goes to B and then to C,
and the engines with it. All parameters of an engine are NaN before each refit,
so nothing of an earlier one can pass for a new one.
"""

import contextlib
from typing import NamedTuple

import pytest
import torch

import tiny_models
import weft
from child_processes import Child, ask_all
from engine_child import Engine
from fake_receiver import offsets_of
from trainer_child import FsdpRank, MegatronRank

# Awkward on purpose: vocabularies that neither 64 nor FSDP's ranks divide, KV
# heads that TP 2 has to repeat, ties, biases, heads wider than hidden / heads.
FAMILIES = {
    "llama": tiny_models.config_of("qwen2", tied=True) | {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "mlp_bias": False},
    "qwen2": tiny_models.config_of("qwen2", tied=False, vocabulary=1001) | {
        "num_key_value_heads": 1},
    "qwen3": tiny_models.config_of("qwen3", tied=False) | {
        "hidden_size": 96, "intermediate_size": 160},
}
SEEDS = {"a": 1, "b": 2, "c": 3}


class Trainer(NamedTuple):
    framework: str
    degrees: tuple[int, ...]  # FSDP2: the mesh; Megatron-Core: tp, pp
    dtype: str = "bfloat16"

    def start(self, stack, catalog, model, config, folder, store):
        """A child for each rank, made together: they meet in gloo."""
        ranks = []
        for rank in range(torch.Size(self.degrees).numel()):
            common = (rank, str(store), catalog, model, folder)
            child = (Child(FsdpRank, *common, self.degrees, self.dtype)
                     if self.framework == "fsdp" else
                     Child(MegatronRank, *common, config, *self.degrees))
            stack.callback(child.stop)
            ranks.append(child)
        for child in ranks:
            child.result()
        return ranks


TRAINERS = {
    "fsdp 1": Trainer("fsdp", (1,)),
    "fsdp 2": Trainer("fsdp", (2,)),
    "fsdp 3": Trainer("fsdp", (3,)),
    "fsdp 2 float32": Trainer("fsdp", (2,), "float32"),
    "hsdp 2x2": Trainer("fsdp", (2, 2)),
    "megatron tp 2": Trainer("megatron", (2, 1)),
    "megatron pp 2": Trainer("megatron", (1, 2)),
}


class Seen(NamedTuple):
    """What an engine holds, on every worker, and says."""

    state: list
    answers: list


def seen(engine):
    return Seen(engine.ask("state"), engine.ask("answers"))


def different(found, expected):
    """[(worker, name)] of what is not the same."""
    assert len(found) == len(expected)
    return [(worker, name)
            for worker, (ours, theirs) in enumerate(zip(found, expected))
            for name in ours.keys() | theirs.keys()
            if ours.get(name) != theirs.get(name)]


class World:
    """The checkpoints of a family, what fresh engines of B and C are, and the
    running engines: {(tp, pp): ...}."""

    def __init__(self, stack, folder, config, layouts):
        self.config = config
        self.folders = {
            name: tiny_models.write(folder / name, config,
                                    tiny_models.random_tensors(config, seed))
            for name, seed in SEEDS.items()}
        self.fresh = {layout: {} for layout in layouts}
        for name in ("b", "c"):
            with contextlib.ExitStack() as for_now:
                engines = self._start(for_now, name, layouts)
                for layout, engine in engines.items():
                    self.fresh[layout][name] = seen(engine)
        self.live = self._start(stack, "a", layouts)
        self.addresses = {layout: engine.ask("addresses")
                          for layout, engine in self.live.items()}

    def _start(self, stack, name, layouts):
        engines = {}
        for layout in layouts:
            engines[layout] = Child(Engine, self.folders[name], *layout)
            stack.callback(engines[layout].stop)
        for engine in engines.values():
            engine.result()
        return engines

    def check_refit(self, layout, version, name):
        engine, expected = self.live[layout], self.fresh[layout][name]
        engine.ask("poison")
        poisoned = engine.ask("state")
        assert engine.ask("refit", version) == version
        found = seen(engine)
        assert different(found.state, expected.state) == []
        # Not one parameter was right before.
        for worker, names in enumerate(engine.ask("parameters")):
            assert all(poisoned[worker][n] != found.state[worker][n]
                       for n in names)
        assert found.answers == expected.answers
        assert engine.ask("addresses") == self.addresses[layout]


@pytest.fixture(scope="module")
def catalog():
    with weft.CatalogServer() as server:
        yield server.address


@pytest.fixture(scope="module", params=FAMILIES)
def world(request, tmp_path_factory):
    with contextlib.ExitStack() as stack:
        yield World(stack, tmp_path_factory.mktemp(request.param),
                    FAMILIES[request.param], [(1, 1), (2, 1)])


def refit_twice(world, trainer, catalog, model, store):
    with contextlib.ExitStack() as stack:
        ranks = trainer.start(stack, catalog, model, world.config,
                              world.folders["a"], store)
        for engine in world.live.values():
            engine.ask("connect", catalog, model)
        for step, name in [(1, "b"), (2, "c")]:
            versions = ask_all(ranks, "train", world.folders[name], step)
            assert set(versions) == {f"run:0:{step}"}
            for layout in world.live:
                world.check_refit(layout, versions[0], name)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_byte_of_every_worker(world, trainer, catalog, tmp_path):
    refit_twice(world, TRAINERS[trainer], catalog,
                f"{world.config['model_type']}/{trainer.replace(' ', '-')}",
                tmp_path / "store")


# ---- what an engine says of itself, and what the recipes say of it ----------


def origins(placement, shapes):
    """{stored name: (dtype, for each element the number of the logical element
    that it comes from, -1 for padding)}."""
    first, total = {}, 0
    for name, shape in sorted(shapes.items()):
        first[name] = total
        total += torch.Size(shape).numel()
    found = {}
    for stored in placement.stored:
        numbers = torch.full(stored.shape, -2)
        for box in stored.zero_fill:
            numbers[tuple(slice(b, e) for b, e in box)] = -1
        flat = numbers.view(-1)
        for fragment in stored.fragments:
            logical = placement.tensors[fragment.tensor]
            assert logical.shape == shapes[logical.name]
            there = torch.arange(torch.Size(logical.shape).numel()).view(
                logical.shape)[tuple(slice(b, e) for b, e in fragment.box)]
            at = offsets_of(fragment).reshape(-1)
            assert torch.all(flat[at] == -2), "written twice"
            flat[at] = there.reshape(-1) + first[logical.name]
        assert not torch.any(numbers == -2), f"{stored.name} has holes"
        found[stored.name] = (stored.dtype, numbers)
    return found


def check_recipe(engine, config, tp, pp):
    """What each worker captured of its own loader is what the recipe says of
    its rank, element by element."""
    shapes = tiny_models.shapes_of(config)
    placements = engine.ask("placements")
    assert len(placements) == tp * pp
    for rank, captured in enumerate(placements):
        recipe = weft.recipe_placement(config, f"vllm:tp={tp},pp={pp}", rank)
        assert (captured.rank, captured.num_ranks) == (
            recipe.rank, recipe.num_ranks) == (rank, tp * pp)
        ours, theirs = (origins(p, shapes) for p in (captured, recipe))
        assert ours.keys() == theirs.keys()
        for name, (dtype, numbers) in ours.items():
            assert dtype == theirs[name][0], name
            assert torch.equal(numbers, theirs[name][1]), name


def test_capture_and_recipe_agree(world, catalog):
    for layout, engine in world.live.items():
        engine.ask("connect", catalog, "nobody-publishes-it")
        check_recipe(engine, world.config, *layout)


@pytest.mark.parametrize("family,trainer", [
    ("llama", "fsdp 3"), ("qwen2", "megatron tp 2")])
def test_pipeline_stages(family, trainer, catalog, tmp_path):
    """Another cut of the layers than any trainer's; the last stage of a tied
    model has the embedding as well."""
    with contextlib.ExitStack() as stack:
        world = World(stack, tmp_path, FAMILIES[family], [(1, 2)])
        refit_twice(world, TRAINERS[trainer], catalog, f"stages/{family}",
                    tmp_path / "store")
        check_recipe(world.live[1, 2], world.config, 1, 2)
