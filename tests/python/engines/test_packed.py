"""Packed experts and heads: where a direct write in the loader's layout gives
wrong tokens and no error."""

import pytest
import torch

import engines
import moe_models
import tiny_models
from refit_world import World, assert_a_to_b_to_a, refit
from weft.vllm import packed
from weft.vllm.errors import EngineRefused
from weft.vllm.target import use_live_weights

weft = pytest.importorskip("weft")


@pytest.fixture(scope="module", params=["qwen3_moe", "qwen2_moe"])
def world(request, tmp_path_factory):
    """qwen3_moe: the intermediate size 40 is padded to 64. qwen2_moe: a shared
    expert, and packed weights of the same shape as the loader's."""
    config = moe_models.config_of(request.param)
    a, b = (moe_models.random_tensors(config, seed) for seed in (1, 2))
    made = World(tmp_path_factory.mktemp(request.param), config, a, b)
    yield made
    made.close()


def experts_of(model):
    return {name: module for name, module in model.named_modules()
            if "w13_weight" in module._parameters}


def test_the_probe_leaves_the_model_as_it_is(world):
    before = engines.bits_of(world.model)
    kernels = {name: (module.quant_method, module.quant_method.moe_kernel)
               for name, module in experts_of(world.model).items()}
    sizes = {name: module.moe_config.intermediate_size_per_partition
             for name, module in experts_of(world.model).items()}
    assert len(kernels) == 2
    world.target()
    after = engines.bits_of(world.model)
    assert before.keys() == after.keys()
    for name, state in before.items():
        assert state[:3] == after[name][:3], name
        assert torch.equal(state[3], after[name][3]), name
    for name, module in experts_of(world.model).items():
        method, kernel = kernels[name]
        assert module.quant_method is method and method.moe_kernel is kernel
        assert (module.moe_config.intermediate_size_per_partition
                == sizes[name])
    assert world.answers() == world.answers_a


def test_packed_experts_from_a_to_b_to_a(world):
    made = world.target()
    report = made.report()
    assert report["recipe"] == "agrees"
    assert set(report["packed"]) == {
        f"{name}.{key}" for name in experts_of(world.model)
        for key in ("w13_weight", "w2_weight")}
    assert report["loader"] == {} and "kernel's layout" in str(report)
    assert_a_to_b_to_a(world, made)


def test_every_expert_byte_is_that_of_a_packed_checkpoint(world):
    """Against the kernel's own packing of the checkpoint's experts."""
    from vllm import _custom_ops as ops

    made = world.target()
    refit(made, world.b)
    for name, module in experts_of(world.model).items():
        prefix = name.removesuffix("routed_experts")
        count = module.w13_weight.shape[0]
        gate, up, down = (torch.stack([
            world.b[f"{prefix}{e}.{part}_proj.weight"] for e in range(count)])
            for part in ("gate", "up", "down"))
        padded = -(-gate.shape[1] // 32) * 32
        isa = module.quant_method.moe_kernel.fused_experts.isa
        missing = padded - gate.shape[1]
        rows = torch.nn.functional.pad
        w13 = torch.cat([rows(gate, (0, 0, 0, missing)),
                         rows(up, (0, 0, 0, missing))], 1)
        w2 = rows(down, (0, missing))
        for live, loaded in ((module.w13_weight, w13), (module.w2_weight, w2)):
            wanted = ops.cpu_prepack_moe_weight(loaded.contiguous(), isa)
            assert torch.equal(live, wanted), name
    refit(made, world.a)


def test_a_direct_write_in_the_loaders_layout_is_wrong_without_an_error(world):
    """What the packing guards against: shapes fit, tokens are wrong."""
    made = world.target()
    refit(made, world.b)
    for name, module in experts_of(world.model).items():
        prefix = name.removesuffix("routed_experts")
        w2 = torch.stack([world.b[f"{prefix}{e}.down_proj.weight"]
                          for e in range(module.w2_weight.shape[0])])
        if w2.shape == module.w2_weight.shape:
            module.w2_weight.data.copy_(w2)
        else:
            module.w2_weight.data[..., :w2.shape[-1]].copy_(w2)
    assert world.answers() != world.answers_b
    refit(made, world.b)
    assert world.answers() == world.answers_b
    refit(made, world.a)


@pytest.mark.parametrize("world", ["qwen2_moe"], indirect=True)
def test_layerwise_reload_leaves_unpacked_experts_and_a_refit_heals_them(
        world):
    """vLLM's own way to load anew, which nothing here may use for these."""
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader.reload import (
        finalize_layerwise_reload, initialize_layerwise_reload)

    made = world.target()
    with set_current_vllm_config(world.vllm_config), torch.device("cpu"):
        initialize_layerwise_reload(world.model)
        world.model.load_weights(iter(world.b.items()))
        finalize_layerwise_reload(world.model, world.vllm_config.model_config)
    assert world.answers() != world.answers_b
    refit(made, world.b)
    assert world.answers() == world.answers_b
    assert_a_to_b_to_a(world, world.target())  # learnt after it, too


def test_experts_that_no_map_describes_take_the_loader(world, monkeypatch):
    """They are staged, loaded beside the live ones and packed by their own
    post-processing."""
    def refuse(layer, skeletons):
        raise packed.NotProbed("rows and columns are shuffled together")

    monkeypatch.setattr(packed, "probe", refuse)
    before = {name: (module.quant_method.moe_kernel, [
        (key, id(p), p.data_ptr()) for key, p in module._parameters.items()])
        for name, module in experts_of(world.model).items()}
    made = world.target()
    report = made.report()
    experts = [name for name in world.a if ".experts." in name]
    assert sorted(report["staged"]) == sorted(experts)
    assert report["packed"] == {}
    assert set(report["loader"]) == {
        f"{name}.{key}" for name in experts_of(world.model)
        for key in ("w13_weight", "w2_weight")}
    assert "packed, and rows and columns are shuffled together" in str(report)
    for tensor in (p for module in experts_of(world.model).values()
                   for p in (module.w13_weight, module.w2_weight)):
        tensor.data.fill_(float("nan"))
    assert_a_to_b_to_a(world, made)
    assert before == {name: (module.quant_method.moe_kernel, [
        (key, id(p), p.data_ptr()) for key, p in module._parameters.items()])
        for name, module in experts_of(world.model).items()}


def test_a_layer_with_an_unknown_method_is_refused_by_name(world):
    class SecretMethod:
        def create_weights(self):
            """What makes it a method of weights."""

    name, module = next((n, m) for n, m in world.model.named_modules()
                        if n.endswith("o_proj"))
    method, module.quant_method = module.quant_method, SecretMethod()
    with pytest.raises(EngineRefused) as caught:
        world.target()
    module.quant_method = method
    assert f'"{name} (SecretMethod)"' in str(caught.value)


# ---- a published mixture of experts, without a stand-in --------------------


def test_a_published_mixtral_reaches_the_packed_experts(tmp_path):
    config = moe_models.config_of("mixtral")
    a, b = (moe_models.random_tensors(config, seed) for seed in (3, 4))
    world = World(tmp_path, config, a, b)
    trained = {name: tensor.clone() for name, tensor in a.items()}
    with weft.CatalogServer() as catalog:
        publisher = weft.Publisher(catalog=catalog.address, model="mixtral",
                                   run_id="run", source=weft.tensors(trained))
        publisher.publish(step=1)
        world.llm.init_weight_transfer_engine({"init_info": {
            "catalog": catalog.address, "model": "mixtral", "timeout": 60}})
        live = engines.worker_of(world.llm).weight_transfer_engine._target
        for step, values, wanted in [(2, b, world.answers_b),
                                     (3, a, world.answers_a),
                                     (4, b, world.answers_b)]:
            with publisher.update():
                for name, tensor in trained.items():
                    tensor.copy_(values[name])
            version = publisher.publish(step=step).version
            for tensor in live.tensors():
                tensor.fill_(float("nan"))
            world.llm.start_weight_update()
            world.llm.update_weights({"update_info": {"version": version}})
            world.llm.finish_weight_update(weight_version=version)
            assert world.answers() == wanted
        assert len(live.report()["packed"]) == 4
        world.llm.shutdown_weight_transfer_engine()
        publisher.close()
    world.close()


# ---- heads that multiply with a packed copy --------------------------------


def test_a_head_multiplies_with_the_live_parameter(tmp_path):
    """A head keeps its parameter beside a packed copy; the copy is what it
    multiplies with, and a refit of the parameter changes no token of it."""
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    config = tiny_models.config_of("qwen2", tied=False)
    a, b = (tiny_models.random_tensors(config, seed) for seed in (5, 6))
    world = World(tmp_path, config, a, b)
    head = world.model.lm_head
    assert head.cpu_linear is torch.nn.functional.linear  # since the start
    made = world.target()
    dispatch_cpu_unquantized_gemm(head, remove_weight=False)
    refit(made, world.b)
    assert torch.equal(head.weight[:config["vocab_size"]],
                       world.b["lm_head.weight"])
    stale = world.answers()
    assert stale != world.answers_b
    assert use_live_weights(world.model) > 0
    assert world.answers() == world.answers_b
    dispatch_cpu_unquantized_gemm(head, remove_weight=False)
    assert_a_to_b_to_a(world, world.target())
    world.close()
