"""A live vLLM: capture leaves it as it is, and refits through the fake
receiver make it answer bit for bit as an engine that loaded those weights."""

import gc

import pytest
import torch

import engines
import tiny_models
import vllm_rules
from fake_receiver import FakeReceiver
from weft.layout import LogicalTensor
from weft.vllm import engine as weft_engine
from weft.vllm import target
from weft.vllm.checkpoint import logical_tensors
from weft.vllm.errors import CaptureError, CoverageError

LONG = [[(7 * i + 3) % 1000 for i in range(200)]]  # more than a cache block


class World:
    """An engine started from A, and what fresh engines of A and B answer."""

    def __init__(self, folder, kind, tied):
        self.config = tiny_models.config_of(kind, tied=tied)
        self.a = tiny_models.random_tensors(self.config, 1)
        self.b = tiny_models.random_tensors(self.config, 2)
        self.folder = tiny_models.write(folder / "a", self.config, self.a)
        other = engines.start(
            tiny_models.write(folder / "b", self.config, self.b))
        self.answers_b = engines.answers(other)
        self.long_b = engines.answers(other, LONG)
        engines.stop(other)
        del other  # its finalizer ends the parallel state of this process
        gc.collect()
        self.llm = engines.start(self.folder)
        self.answers_a = engines.answers(self.llm)
        assert self.answers_a != self.answers_b

    @property
    def engine(self):
        return engines.worker_of(self.llm).weight_transfer_engine

    def init(self):
        self.llm.init_weight_transfer_engine(
            {"init_info": {"catalog": "nowhere:1", "model": "tiny"}})

    def refit(self, version):
        self.llm.start_weight_update()
        self.llm.update_weights({"update_info": {"version": version}})
        self.llm.finish_weight_update(weight_version=version)


@pytest.fixture(scope="module", params=[("qwen2", False), ("qwen3", True)],
                ids=lambda p: p[0])
def world(request, tmp_path_factory):
    kind, tied = request.param
    made = World(tmp_path_factory.mktemp(kind), kind, tied)
    yield made
    engines.stop(made.llm)
    made.llm = None
    gc.collect()


@pytest.fixture(autouse=True)
def receivers(monkeypatch, request):
    monkeypatch.setattr(weft_engine, "receiver_factory", FakeReceiver)
    monkeypatch.setattr(FakeReceiver, "trouble", None)
    monkeypatch.setattr(FakeReceiver, "made", [])
    if "world" in request.fixturenames:
        world = request.getfixturevalue("world")
        monkeypatch.setattr(FakeReceiver, "versions",
                            {"run:0:1": world.a, "run:0:2": world.b})


def vllm_config(llm):
    return engines.worker_of(llm).vllm_config


def test_capture_is_what_the_rules_say(world):
    made = target(engines.model_of(world.llm), vllm_config(world.llm))
    placement = made.placement
    assert (placement.layout_spec, placement.rank, placement.num_ranks) == (
        "vllm", 0, 1)
    vllm_rules.assert_placed(placement, world.config,
                             tiny_models.shapes_of(world.config))
    assert made.captured.unused == []
    assert made.report()["recipe"] == "agrees"
    assert sorted(made.known_tensors) == sorted(
        tiny_models.shapes_of(world.config))
    live = dict(engines.model_of(world.llm).named_parameters())
    for stored, memory in zip(placement.stored, made.tensors(), strict=True):
        assert memory.data_ptr() == live[stored.name].data_ptr()


def test_capture_leaves_the_model_as_it_is(world):
    model = engines.model_of(world.llm)
    before = engines.bits_of(model)
    linears = {n: m.cpu_linear for n, m in model.named_modules()
               if hasattr(m, "cpu_linear")}
    assert linears
    target(model, vllm_config(world.llm))
    after = engines.bits_of(model)
    assert before.keys() == after.keys()
    for name in before:
        assert before[name][:3] == after[name][:3], name
        assert torch.equal(before[name][3], after[name][3]), name
    for name, module in model.named_modules():
        if name in linears:
            assert module.cpu_linear is linears[name], name
    assert engines.answers(world.llm) == world.answers_a


def test_a_to_b_to_a(world):
    world.init()
    assert engines.answers(world.llm, LONG) != world.long_b
    for version, wanted in [("run:0:2", world.answers_b),
                            ("run:0:1", world.answers_a),
                            ("run:0:2", world.answers_b)]:
        poison(world)
        world.refit(version)
        assert engines.answers(world.llm) == wanted
        assert world.llm.get_weight_version() == version
    # Nobody reset a cache: the long prompt was cached under weights A.
    assert engines.answers(world.llm, LONG) == world.long_b
    world.refit("run:0:1")


def poison(world):
    """So that what a refit forgets is seen."""
    for tensor in world.engine._target.tensors():
        tensor.fill_(float("nan"))


def test_a_torn_update_fences_until_one_succeeds(world, monkeypatch):
    world.init()
    world.refit("run:0:1")
    llm = world.llm
    monkeypatch.setattr(FakeReceiver, "trouble", "torn")
    llm.start_weight_update()
    with pytest.raises(Exception, match="peer 3 was lost.*an update that "
                                        "succeeds heals it"):
        llm.update_weights({"update_info": {"version": "run:0:2"}})
    assert "peer 3 was lost" in world.engine.fenced_reason
    with pytest.raises(Exception, match="engine is fenced.*peer 3 was lost"):
        engines.answers(llm)
    with pytest.raises(Exception, match="engine is fenced.*peer 3 was lost"):
        engines.core_of(llm).resume_scheduler()
    assert llm.get_weight_version() == "fenced"
    # The worker dropped the session, so vLLM itself refuses to finish.
    with pytest.raises(RuntimeError, match="without a matching start"):
        llm.finish_weight_update(weight_version="run:0:2")
    # A failure before the first byte does not lift the fence.
    monkeypatch.setattr(FakeReceiver, "trouble", "early")
    llm.start_weight_update()
    with pytest.raises(Exception, match="fenced"):
        llm.update_weights({"update_info": {"version": "run:0:2"}})
    # A new receiver does not either.
    world.init()
    with pytest.raises(Exception, match="engine is fenced"):
        engines.answers(llm)
    monkeypatch.setattr(FakeReceiver, "trouble", None)
    world.refit("run:0:2")
    assert world.engine.fenced_reason == ""
    assert llm.get_weight_version() == "run:0:2"
    assert engines.answers(llm) == world.answers_b
    world.refit("run:0:1")
    assert engines.answers(llm) == world.answers_a


def test_a_failure_before_the_first_byte_keeps_the_old_weights(world,
                                                              monkeypatch):
    world.init()
    world.refit("run:0:1")
    world.llm.start_weight_update()
    with pytest.raises(Exception, match='no version "run:0:9" of model "tiny"'):
        world.llm.update_weights({"update_info": {"version": "run:0:9"}})
    assert world.engine.fenced_reason == ""
    assert world.llm.get_weight_version() == "run:0:1"
    assert engines.answers(world.llm) == world.answers_a


def test_finish_without_an_update_gives_no_new_label(world):
    world.init()
    world.refit("run:0:1")
    world.llm.start_weight_update()
    with pytest.raises(Exception, match='finish without a successful update.*'
                                        'weights are "run:0:1"'):
        world.llm.finish_weight_update(weight_version="run:0:2")
    assert world.llm.get_weight_version() == "run:0:1"
    # vLLM leaves that session open; an update in it puts things right.
    world.llm.update_weights({"update_info": {"version": "run:0:2"}})
    world.llm.finish_weight_update(weight_version="run:0:2")
    assert engines.answers(world.llm) == world.answers_b


def test_init_twice_and_shutdown(world):
    world.init()
    world.init()
    first, second = FakeReceiver.made
    assert first.closed and not second.closed
    assert first.target is second.target  # captured once
    world.llm.shutdown_weight_transfer_engine()
    world.llm.shutdown_weight_transfer_engine()
    assert second.closed
    with pytest.raises(Exception, match="call init_weight_transfer_engine"):
        world.llm.start_weight_update()
    world.init()
    world.refit("run:0:2")
    assert engines.answers(world.llm) == world.answers_b
    with pytest.raises(Exception, match="Invalid init_info for WeftEngine"):
        world.llm.init_weight_transfer_engine({"init_info": {"catalogue": 1}})


def test_a_missing_tensor_is_named_by_its_hole(world):
    tensors = [t for t in logical_tensors(world.folder)
               if t.name != "model.layers.1.self_attn.k_proj.weight"]
    with pytest.raises(CoverageError) as caught:
        target(engines.model_of(world.llm), vllm_config(world.llm),
               tensors=tensors)
    q = dict((t.name, t.shape) for t in tensors)[
        "model.layers.1.self_attn.q_proj.weight"][0]
    k = tiny_models.shapes_of(world.config)[
        "model.layers.1.self_attn.k_proj.weight"][0]
    assert (f"nothing fills [{q},{q + k})x[0,128) of "
            '"model.layers.1.self_attn.qkv_proj.weight"') in str(caught.value)
    assert str(caught.value).startswith("1 faults")


@pytest.mark.parametrize("name, shape", [
    ("model.norm.weight", (127,)), ("model.embed_tokens.weight", (1004, 128)),
    ("model.layers.0.self_attn.v_proj.weight", (65, 128)),
    ("model.layers.0.mlp.up_proj.weight", (95, 128)),
    ("model.layers.1.self_attn.o_proj.weight", (128, 200))])
def test_a_wrong_shape_is_named(world, name, shape):
    tensors = [LogicalTensor(t.name, t.dtype, shape) if t.name == name else t
               for t in logical_tensors(world.folder)]
    before = engines.bits_of(engines.model_of(world.llm))
    with pytest.raises((CaptureError, CoverageError)) as caught:
        target(engines.model_of(world.llm), vllm_config(world.llm),
               tensors=tensors)
    assert f'"{name}"' in str(caught.value)
    after = engines.bits_of(engines.model_of(world.llm))
    assert all(torch.equal(before[n][3], after[n][3]) for n in before)
