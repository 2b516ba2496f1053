"""Tensors that only the engine's own loader can fill: staged as in the
checkpoint, and put into the live parameters before the commit."""

import pytest
import torch
from torch import nn

import engines
import tiny_models
from fake_receiver import fill
from refit_world import World, assert_a_to_b_to_a, poison, refit
from weft.layout import LogicalTensor
from weft.vllm.capture import capture
from weft.vllm.errors import CaptureError, CoverageError
from weft.vllm.live import NAMES
from weft.vllm.loader_path import load

weft = pytest.importorskip("weft")


# ---- each rule, on a small module ------------------------------------------


class Model(nn.Module):
    """`loader(model, {name: tensor})` is its weight loader."""

    def __init__(self, loader, **shapes):
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(
                torch.randn(shape), False))
        self.loader = loader

    def load_weights(self, weights):
        self.loader(self, dict(weights))


def w(*shape, begin=1):
    count = torch.Size(shape).numel()
    return torch.arange(begin, begin + count).view(shape).to(torch.float32)


def captured_of(model, sources):
    return capture(model, [LogicalTensor(n, NAMES[t.dtype], tuple(t.shape))
                           for n, t in sources.items()], by_loader={})


def check(loader, sources, by_loader, **shapes):
    """Captures, transfers twice, and compares with the loader itself."""
    model = Model(loader, **shapes)
    before = {n: p.clone() for n, p in model.named_parameters()}
    captured = captured_of(model, sources)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name
    (path,) = captured.loader_paths
    assert set(path.live) == set(by_loader)
    for step in (1, 2):
        values = {n: t / 8 + step for n, t in sources.items()}
        wanted = Model(loader, **shapes)
        with torch.no_grad():
            poison(wanted.parameters())
            wanted.load_weights({n: t.clone()
                                 for n, t in values.items()}.items())
            poison(model.parameters())
            poison(captured.tensors)
        fill(captured.placement, captured.tensors, values)
        load(model, path.staged, set(path.live))
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, dict(
                wanted.named_parameters())[name]), name
    return captured, path


def refuse(loader, sources, error=CaptureError, **shapes):
    model = Model(loader, **shapes)
    before = {n: p.clone() for n, p in model.named_parameters()}
    with pytest.raises(error) as caught:
        captured_of(model, sources)
    for name, value in before.items():
        assert torch.equal(dict(model.named_parameters())[name], value)
    return str(caught.value)


def test_only_what_is_computed_takes_the_loader():
    def loader(m, t):
        if "x" in t:
            m.a.data.copy_(-torch.exp(t["x"]))
        if "y" in t:
            m.b.data.copy_(t["y"].t())

    captured, path = check(loader, {"x": w(2, 3), "y": w(3, 2)}, ["a"],
                     a=(2, 3), b=(2, 3))
    assert list(path.staged) == ["x"]
    assert sum(t.nbytes for t in path.staged.values()) == 24
    assert 'exp.default of "x"' in path.live["a"]
    assert [s.name for s in captured.placement.stored] == [
        "b", "for the loader: x"]


def test_a_value_changed_after_it_was_copied():
    def loader(m, t):
        if "x" in t:
            m.a.data.copy_(t["x"])
            m.a.data.copy_(m.a.data * 2 + 1)
            m.b.data.copy_(t["x"])
            m.b.data.mul_(3)

    check(loader, {"x": w(2, 3)}, ["a", "b"], a=(2, 3), b=(2, 3))


def test_parts_of_a_fused_parameter_go_together():
    """The loader fills all of a tensor, or none of it."""
    def loader(m, t):
        for name, begin, scale in (("q", 0, 0.5), ("k", 2, 1.0)):
            if name in t:
                value = t[name] * scale if scale != 1 else t[name]
                m.a.data.narrow(0, begin, 2).copy_(value)
        if "n" in t:
            m.b.data.copy_(t["n"])

    _, path = check(loader, {"q": w(2, 3), "k": w(2, 3), "n": w(3)}, ["a"],
                     a=(4, 3), b=(3,))
    assert list(path.staged) == ["q", "k"]


def test_what_else_is_made_of_a_staged_tensor_goes_with_it():
    def loader(m, t):
        if "x" in t:
            m.a.data.copy_(t["x"] + 1)
            m.b.data.copy_(t["x"])
        if "y" in t:
            m.c.data.copy_(t["y"])

    _, path = check(loader, {"x": w(4), "y": w(2)}, ["a", "b"],
                     a=(4,), b=(4,), c=(2,))
    assert "together with the others" in path.live["b"]


def test_a_constant_of_the_loader():
    def loader(m, t):
        if "x" in t:
            m.a.data.fill_(1)
            m.a.data[1:].copy_(t["x"])

    check(loader, {"x": w(3)}, ["a"], a=(4,))


def test_a_loader_that_wants_all_tensors_is_refused():
    def loader(m, t):
        m.a.data.copy_(t["x"] + 1)
        m.b.data.copy_(t["y"])

    said = refuse(loader, {"x": w(3), "y": w(2)}, a=(3,), b=(2,))
    assert 'failed on tensor "x"' in said and "KeyError" in said


def test_a_loader_that_does_otherwise_alone_is_refused():
    def loader(m, t):
        if "x" in t:
            m.a.data.copy_(t["x"] + 1 if "y" in t else t["x"] - 1)
        if "y" in t:
            m.b.data.copy_(t["y"])

    said = refuse(loader, {"x": w(3), "y": w(2)}, a=(3,), b=(2,))
    assert '"a" in another way when it is fed "x" alone' in said


def test_a_result_that_depends_on_the_old_value_is_refused():
    said = refuse(lambda m, t: m.a.data.mul_(t["x"]), {"x": w(3)},
                  error=CoverageError, a=(3,))
    assert 'the loader changes "a" before it has filled it' in said

    def half(m, t):
        m.a.data[:2].copy_(t["x"])
        m.a.data.copy_(m.a.data + 1)

    said = refuse(half, {"x": w(2)}, error=CoverageError, a=(3,))
    assert 'the loader uses "a" before it has filled it' in said


def test_holes_are_named():
    said = refuse(lambda m, t: m.a.data[:2].copy_(t["x"] + 1), {"x": w(2)},
                  error=CoverageError, a=(3,))
    assert 'nothing fills [2,3) of "a" (3,)' in said


def test_a_loader_that_decides_by_values_is_refused():
    said = refuse(lambda m, t: m.a.data.copy_(
        t["x"] if t["s"].item() > 2 else -t["x"]),
        {"x": w(2), "s": w(1)}, a=(2,))
    assert '"s"' in said and "decides by the values" in said


def test_a_write_that_was_not_recorded_is_stopped():
    def loader(m, t):
        m.a.data.copy_(t["x"] + 1)
        if m.strays:
            m.b.data.zero_()

    model = Model(loader, a=(3,), b=(2,))
    model.strays = False
    before = model.b.clone()
    with torch.no_grad():
        load(model, {"x": w(3)}, {"a"})
        assert torch.equal(model.a, w(3) + 1)
        model.strays = True
        with pytest.raises(CaptureError, match='the loader writes "b" by'):
            load(model, {"x": w(3)}, {"a"})
    assert torch.equal(model.b, before)


def test_a_loader_that_replaces_memory_is_noticed():
    model = Model(lambda m, t: setattr(m.a, "data", t["x"] + 1), a=(3,))
    with pytest.raises(CaptureError, match='replaces live tensors ".a"'):
        load(model, {"x": w(3)}, {"a"})


# ---- real engines ----------------------------------------------------------


def mamba2():
    config = {"architectures": ["Mamba2ForCausalLM"], "model_type": "mamba2",
              "vocab_size": 1003, "hidden_size": 128, "num_hidden_layers": 2,
              "state_size": 16, "expand": 2, "num_heads": 8, "head_dim": 32,
              "conv_kernel": 4, "n_groups": 1, "layer_norm_epsilon": 1e-5,
              "use_conv_bias": True, "use_bias": False, "hidden_act": "silu",
              "rms_norm": True, "chunk_size": 32, "time_step_rank": 8,
              "tie_word_embeddings": False, "torch_dtype": "bfloat16"}
    h, heads, state = 128, 8, 16
    inner, conv = 2 * h, 2 * h + 2 * state
    shapes = {"backbone.embeddings.weight": (1003, h)}
    for layer in range(2):
        at = f"backbone.layers.{layer}."
        shapes |= {at + "norm.weight": (h,), at + "mixer.A_log": (heads,),
                   at + "mixer.D": (heads,), at + "mixer.dt_bias": (heads,),
                   at + "mixer.conv1d.weight": (conv, 1, 4),
                   at + "mixer.conv1d.bias": (conv,),
                   at + "mixer.in_proj.weight": (inner + conv + heads, h),
                   at + "mixer.norm.weight": (inner,),
                   at + "mixer.out_proj.weight": (h, inner)}
    shapes |= {"backbone.norm_f.weight": (h,), "lm_head.weight": (1003, h)}
    return config, shapes


def random_tensors(shapes, seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: (torch.randn(shape, generator=generator) * 0.1
                   + ("norm" in name)).to(torch.bfloat16)
            for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def mamba_world(tmp_path_factory):
    config, shapes = mamba2()
    a, b = (random_tensors(shapes, seed) for seed in (1, 2))
    made = World(tmp_path_factory.mktemp("mamba2"), config, a, b)
    yield made
    made.close()


def state_of(model):
    return {name: (p.data_ptr(), p.detach().clone())
            for name, p in model.named_parameters()}


def test_mamba2_from_a_to_b_to_a(mamba_world):
    world = mamba_world
    addresses = {n: p.data_ptr() for n, p in world.model.named_parameters()}
    made = world.target()
    report = made.report()
    layers = [f"backbone.layers.{layer}.mixer." for layer in range(2)]
    assert list(report["loader"]) == [at + "A" for at in layers]
    assert list(report["staged"]) == [at + "A_log" for at in layers]
    assert sum(report["staged"].values()) == 2 * 8 * 2
    assert "backbone.layers.1.mixer.A: the loader" in str(report)
    assert_a_to_b_to_a(world, made)
    for at in layers:  # by its definition, not by the loader
        live = dict(world.model.named_parameters())[at + "A"]
        assert torch.equal(live, -torch.exp(world.a[at + "A_log"].float()))
    assert addresses == {n: p.data_ptr()
                         for n, p in world.model.named_parameters()}


def test_without_the_loaders_turn_old_values_stay(mamba_world):
    """What the loader path guards against."""
    world = mamba_world
    made = world.target()
    fill(made.placement, made.tensors(), world.b)
    assert world.answers() != world.answers_b
    made.after_refit()
    assert world.answers() == world.answers_b
    refit(made, world.a)


def test_a_published_mamba2_and_a_loader_that_fails(mamba_world, monkeypatch):
    """The loader's turn is before the commit: if it fails, nothing is."""
    world = mamba_world
    trained = {name: tensor.clone() for name, tensor in world.a.items()}
    with weft.CatalogServer() as catalog:
        publisher = weft.Publisher(catalog=catalog.address, model="mamba2",
                                   run_id="run", source=weft.tensors(trained))
        publisher.publish(step=1)
        world.llm.init_weight_transfer_engine({"init_info": {
            "catalog": catalog.address, "model": "mamba2", "timeout": 60}})
        engine = engines.worker_of(world.llm).weight_transfer_engine

        def update(step, values):
            with publisher.update():
                for name, tensor in trained.items():
                    tensor.copy_(values[name])
            version = publisher.publish(step=step).version
            poison(engine._target.tensors())
            world.llm.start_weight_update()
            world.llm.update_weights({"update_info": {"version": version}})
            world.llm.finish_weight_update(weight_version=version)

        update(2, world.b)
        assert world.answers() == world.answers_b

        def broken(model, weights):
            raise RuntimeError("the loader gave up")

        with monkeypatch.context() as patch:
            patch.setattr(type(world.model), "load_weights", broken)
            with pytest.raises(Exception, match="the loader gave up"):
                update(3, world.a)
        assert "the loader gave up" in engine.fenced_reason
        with pytest.raises(Exception, match="engine is fenced"):
            world.answers()
        update(4, world.a)
        assert engine.fenced_reason == ""
        assert world.answers() == world.answers_a
        world.llm.shutdown_weight_transfer_engine()
        publisher.close()


@pytest.fixture
def shifted_model():
    """A model as a user registers it: norms are stored less one, and queries
    without their scale."""
    from vllm import ModelRegistry
    from vllm.model_executor.model_loader.weight_utils import (
        composed_weight_loader, default_weight_loader)
    from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM

    class ShiftedForCausalLM(Qwen3ForCausalLM):
        def __init__(self, *, vllm_config, prefix=""):
            super().__init__(vllm_config=vllm_config, prefix=prefix)
            for name, parameter in self.named_parameters():
                if name.endswith("layernorm.weight"):
                    parameter.weight_loader = composed_weight_loader(
                        default_weight_loader, lambda x: x + 1)

        def load_weights(self, weights):
            return super().load_weights(
                (name, tensor * 0.5 if name.endswith("q_proj.weight")
                 else tensor) for name, tensor in weights)

    ModelRegistry.register_model("ShiftedForCausalLM", ShiftedForCausalLM)


def test_a_model_out_of_the_tree(shifted_model, tmp_path):
    config = tiny_models.config_of("qwen3", tied=True)
    a, b = (tiny_models.random_tensors(config, seed) for seed in (7, 8))
    for checkpoint in (a, b):
        for name, tensor in checkpoint.items():
            if name.endswith("layernorm.weight"):
                tensor -= 1
    world = World(tmp_path, config | {
        "architectures": ["ShiftedForCausalLM"]}, a, b)
    made = world.target()
    report = made.report()
    assert sorted(report["loader"]) == sorted(
        f"model.layers.{layer}.{name}.weight" for layer in range(2)
        for name in ("input_layernorm", "post_attention_layernorm",
                     "self_attn.qkv_proj"))
    assert sorted(report["staged"]) == sorted(
        f"model.layers.{layer}.{name}.weight" for layer in range(2)
        for name in ("input_layernorm", "post_attention_layernorm",
                     "self_attn.q_proj", "self_attn.k_proj",
                     "self_attn.v_proj"))
    assert_a_to_b_to_a(world, made)
    refit(made, world.b)
    live = state_of(world.model)
    for layer in range(2):
        at = f"model.layers.{layer}."
        q = world.b[at + "self_attn.q_proj.weight"]
        assert torch.equal(live[at + "self_attn.qkv_proj.weight"][1]
                           [:q.shape[0]], q * 0.5)
        assert torch.equal(live[at + "input_layernorm.weight"][1],
                           world.b[at + "input_layernorm.weight"] + 1)
    world.close()
