"""Failures of some ranks and not of others, on vLLM's own server with two
ranks, over its routes. The engine that loaded A from disk is the oracle: what
it answered, and its checksums, come back with every refit to A."""

import json

import pytest

import children
import serving
import tiny_models
import weft

START_SECONDS = 400


class World:
    def __init__(self, folder, options):
        config = tiny_models.config_of("qwen2", tied=False)
        self.a, self.b = (tiny_models.random_tensors(config, seed)
                          for seed in (1, 2))
        self.file_b = tiny_models.write(
            folder / "b", config, self.b) / "model.safetensors"
        self.catalog = weft.CatalogServer()
        self.publishers = []
        self.server = serving.Server(
            tiny_models.write(folder / "a", config, self.a),
            folder / "server.log", options,
            {"VLLM_CPU_OMP_THREADS_BIND": "0|1"})

    def start(self):
        self.server.wait(START_SECONDS)
        for step, tensors in ((1, self.a), (2, self.b)):
            self.publishers.append(weft.Publisher(
                self.catalog.address, f"step{step}", weft.tensors(tensors)))
            self.publishers[-1].publish(step=step)
        self.fresh = self.state()

    def state(self):
        """Answers of both replicas, if there are two, and all checksums."""
        status, text = self.server.call("/weight_checker",
                                        {"action": "checksum"})
        assert status == 200, text
        return [self.server.ask() for _ in range(2)], json.loads(text)

    def refit(self, model, version="latest"):
        assert self.server.init(catalog=self.catalog.address, model=model,
                                timeout=30)[0] == 200
        return self.server.refit(version)

    def assert_holds_a(self):
        assert self.refit("step1") == (200, "")
        assert self.server.label() == "run:0:1"
        assert self.state() == self.fresh

    def assert_holds_b(self):
        assert self.refit("step2") == (200, "")
        assert self.server.label() == "run:0:2"
        assert self.state() != self.fresh

    def update(self, info):
        """An update of a session of its own: (status, text)."""
        assert self.server.call("/start_weight_update")[0] == 200
        return self.server.call("/update_weights", {"update_info": info})

    def close(self):
        self.server.close()
        for publisher in self.publishers:
            publisher.close()
        self.catalog.close()


@pytest.fixture
def world(tmp_path, plugin_path, request):
    made = World(tmp_path, request.param)
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("world", [["--tensor-parallel-size", "2"]],
                         indirect=True, ids=["tp2"])
def test_tensor_parallel_ranks(world):
    server = world.server
    world.assert_holds_b()
    world.assert_holds_a()

    # One entry for each rank. Both ranks are heard, the one that failed too.
    status, text = world.update([{"version": "run:0:1"},
                                 {"version": "run:0:9", "timeout": 0.5}])
    assert status == 500
    assert 'rank 1: refit to "run:0:9" failed before the first byte' \
        in json.loads(text)["error"]["message"]
    assert "rank 0" not in text
    assert server.label() == "run:0:1"
    assert world.state() == world.fresh
    status, text = world.update([{}])
    assert status == 500 and "update_info lists 1 ranks" in text

    # Torn on one rank or on both: the answers of later calls stay in step.
    with children.starting() as start:
        trainer = start("trainer", "--catalog", world.catalog.address,
                        "--model", "held", "--file", world.file_b,
                        "--transports", "ucx", "--hold", "lm_head.weight")
        trainer.event("published")
        trainer.event("armed")
        assert server.init(catalog=world.catalog.address, model="held",
                           transports="ucx", timeout=10)[0] == 200
        assert server.call("/start_weight_update")[0] == 200
        status, text = server.call("/update_weights", {"update_info": {}})
        trainer.event("held")
    assert status == 500 and "publisher rank 0" in text, text
    assert server.label() == "fenced"
    assert server.call("/resume")[0] == 500
    assert server.ask()[0] == 500
    world.assert_holds_a()
    world.assert_holds_b()


@pytest.mark.parametrize("world", [["--data-parallel-size", "2"]],
                         indirect=True, ids=["dp2"])
def test_data_parallel_replicas(world):
    server = world.server
    world.assert_holds_b()
    world.assert_holds_a()

    # Replica 0 finds its entry; replica 1 does not, and says so.
    status, text = world.update([{"version": "run:0:1"}])
    assert status == 500
    assert "replica 1 takes the entries from 1 to 1" in text, text
    status, text = world.update([{"version": "run:0:1"},
                                 {"version": "run:0:9", "timeout": 0.5}])
    assert status == 500 and "version run:0:9" in text, text
    assert server.label() == "run:0:1"
    world.assert_holds_b()  # though replica 0 was updated and not finished
    world.assert_holds_a()
    status, text = world.update([{"version": "run:0:1"}] * 2)
    assert status == 200, text
    assert server.call("/finish_weight_update")[0] == 200
    assert server.label() == "run:0:1"
    assert world.state() == world.fresh
    world.assert_holds_b()
