"""Latent attention: tensors that a layer derives from its projections."""

import pytest
import torch

import moe_models
from refit_world import World, assert_a_to_b_to_a, refit
from weft.vllm.errors import CaptureError, EngineRefused
from weft.vllm.target import check_live_format


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """DeepSeek-V3: compressed queries, one dense layer, one of experts."""
    config = moe_models.config_of("deepseek_v3")
    a, b = (moe_models.random_tensors(config, seed) for seed in (1, 2))
    made = World(tmp_path_factory.mktemp("mla"), config, a, b)
    yield made
    made.close()


def attentions(model):
    return {name: module for name, module in model.named_modules()
            if "W_UV" in module._parameters}


def derived_of(config, checkpoint, layer):
    """(W_UV, W_UK_T) from their definition: heads first."""
    heads, latent = config["num_attention_heads"], config["kv_lora_rank"]
    nope, v = config["qk_nope_head_dim"], config["v_head_dim"]
    weight = checkpoint[f"model.layers.{layer}.self_attn.kv_b_proj.weight"]
    weight = weight.view(heads, nope + v, latent)
    return weight[:, nope:].transpose(1, 2), weight[:, :nope]


def assert_derived(world, checkpoint):
    config = moe_models.config_of("deepseek_v3")
    for layer, module in enumerate(attentions(world.model).values()):
        w_uv, w_uk_t = derived_of(config, checkpoint, layer)
        assert torch.equal(module.W_UV, w_uv)
        assert torch.equal(module.W_UK_T, w_uk_t)


def test_a_to_b_to_a(world):
    made = world.target()
    names = {stored.name for stored in made.placement.stored}
    assert not any("W_U" in name for name in names)
    assert made.report()["derived"] == list(attentions(world.model))
    assert made.report()["loader"] == {}
    assert_a_to_b_to_a(world, made)
    assert_derived(world, world.a)


def test_derived_tensors_with_memory_of_their_own_are_made_anew(world):
    """On this backend they are views of kv_b_proj; elsewhere they are not."""
    views = {name: (module.W_UV, module.W_UK_T)
             for name, module in attentions(world.model).items()}
    for module in attentions(world.model).values():
        for key in ("W_UV", "W_UK_T"):
            own = module._parameters[key].detach().clone(
                memory_format=torch.contiguous_format)
            module._parameters[key] = torch.nn.Parameter(own, False)
    addresses = [m.W_UV.data_ptr() for m in attentions(world.model).values()]
    made = world.target()
    for module in attentions(world.model).values():
        module.W_UV.data.fill_(float("nan"))
        module.W_UK_T.data.fill_(float("nan"))
    refit(made, world.b)
    assert world.answers() == world.answers_b
    assert_derived(world, world.b)
    assert addresses == [m.W_UV.data_ptr()
                         for m in attentions(world.model).values()]
    for name, module in attentions(world.model).items():
        module._parameters.update(zip(("W_UV", "W_UK_T"), views[name]))
    refit(world.target(), world.a)
    assert world.answers() == world.answers_a


def test_derived_tensors_that_move_are_an_error(world, monkeypatch):
    made = world.target()
    name, layer = next(iter(attentions(world.model).items()))
    view = layer.W_UV

    def elsewhere(dtype):
        layer._parameters["W_UV"] = torch.nn.Parameter(view.clone(), False)

    monkeypatch.setattr(layer, "process_weights_after_loading", elsewhere,
                        raising=False)
    with pytest.raises(CaptureError, match=f'the layer "{name}" put its'):
        made.after_refit()
    layer._parameters["W_UV"] = view


def test_projections_packed_for_tiles_are_refused_by_name(world, monkeypatch):
    """What the backend for AMX leaves: an empty kv_b_proj."""
    name, module = next((n, m) for n, m in world.model.named_modules()
                        if n.endswith("kv_b_proj"))
    monkeypatch.setitem(module._parameters, "weight", torch.nn.Parameter(
        torch.empty(0), False))
    with pytest.raises(EngineRefused) as caught:
        check_live_format(world.model)
    assert f'"{name}.weight"' in str(caught.value)
    assert "attention backend CPU_MLA" in str(caught.value)
