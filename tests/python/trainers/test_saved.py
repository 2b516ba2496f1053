"""Families of which only transformers knows how files hold their tensors:
weft.torch.fsdp2 on sharded modules, against the files that transformers
writes."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5")

from safetensors.torch import load_file  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402

import weft.torch  # noqa: E402
from placement_reader import Rank, assemble, assert_same  # noqa: E402
from rank_processes import run_ranks  # noqa: E402

_COMMON = dict(
    hidden_size=12, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=4, intermediate_size=22, vocab_size=37,
    max_position_embeddings=32, tie_word_embeddings=False, pad_token_id=0,
    bos_token_id=1, eos_token_id=2)
_EXPERTS = dict(num_experts=3, num_experts_per_tok=2, moe_intermediate_size=6)
_NEXT = _COMMON | _EXPERTS | dict(
    shared_expert_intermediate_size=10, linear_num_key_heads=2,
    linear_num_value_heads=4, linear_key_head_dim=3, linear_value_head_dim=2,
    linear_conv_kernel_dim=4,
    layer_types=["linear_attention", "full_attention"])
_HYBRID = {k: v for k, v in _COMMON.items() if k != "num_hidden_layers"} | dict(
    mamba_num_heads=4, mamba_head_dim=2, n_groups=2, ssm_state_size=3,
    n_routed_experts=3, n_shared_experts=1, num_experts_per_tok=2,
    moe_intermediate_size=6, moe_shared_expert_intermediate_size=10,
    hybrid_override_pattern="M*E")


def vision():
    config = transformers.Qwen2VLConfig(
        text_config=_COMMON | dict(rope_parameters=dict(
            rope_type="default", mrope_section=[1, 1, 0])),
        vision_config=dict(depth=1, embed_dim=8, hidden_size=12, num_heads=2,
                           patch_size=2, spatial_merge_size=2),
        tie_word_embeddings=False)
    return transformers.Qwen2VLForConditionalGeneration(config)


def causal(name, **values):
    return lambda: transformers.AutoModelForCausalLM.from_config(
        getattr(transformers, name + "Config")(**values))


MODELS = {  # stacks, names, both, and nothing of the kind
    "olmoe": causal("Olmoe", **_COMMON | _EXPERTS),
    "qwen3_next": causal("Qwen3Next", **_NEXT),
    "nemotron_h": causal("NemotronH", **_HYBRID),
    "gpt_neox": causal("GPTNeoX", **_COMMON),
    "qwen2_vl": vision,
    "cohere": causal("Cohere", **_COMMON),
}


def build(kind):
    torch.manual_seed(7)
    model = MODELS[kind]().to(torch.bfloat16)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape))
    return model


def fsdp_rank(kind, num_ranks):
    model = build(kind)
    mesh = init_device_mesh("cpu", (num_ranks,))
    for name, child in model.named_modules():
        if name.count(".") < 3 and isinstance(child, torch.nn.ModuleList):
            for layer in child:
                fully_shard(layer, mesh=mesh)
    # Of transformers too, and with a class of FSDP2's own from now on.
    fully_shard(model.base_model, mesh=mesh)
    source = weft.torch.fsdp2(fully_shard(model, mesh=mesh))
    source.check()
    return Rank(source.placement, [t.clone() for t in source.tensors()])


@pytest.mark.parametrize("kind", MODELS)
def test_shards_are_those_of_the_files(kind, tmp_path):
    ranks = run_ranks(fsdp_rank, 2, tmp_path, kind, 2)
    build(kind).save_pretrained(tmp_path)
    assert_same(assemble(ranks), load_file(tmp_path / "model.safetensors"))


def test_wrappers_do_not_hide_a_model(tmp_path):
    model = build("olmoe")
    for i, layer in enumerate(model.model.layers):
        model.model.layers[i] = torch.compile(layer)
    source = weft.torch.fsdp2(torch.compile(model))
    build("olmoe").save_pretrained(tmp_path)
    assert_same(assemble([Rank(source.placement, source.tensors())]),
                load_file(tmp_path / "model.safetensors"))


def test_what_is_saved_in_another_order_is_refused():
    """Tensors that files hold turned or joined have no boxes in memory."""
    from transformers.core_model_loading import (Concatenate, Transpose,
                                                 WeightConverter)
    for change in (
            WeightConverter("q_proj.weight", "q_proj.weight",
                            [Transpose(0, 1)]),
            WeightConverter("qk.weight", ["q_proj.weight", "k_proj.weight"],
                            [Concatenate(0).reverse_op])):
        model = build("cohere")
        model._weight_conversions = [change]
        with pytest.raises(weft.torch.UnsupportedTensors,
                           match="files of CohereForCausalLM hold tensors that "
                                 "are not cut out of one tensor"):
            weft.torch.fsdp2(model)


def test_a_config_that_is_given_counts():
    model = build("olmoe")
    source = weft.torch.fsdp2(model, {"model_type": "qwen3_moe"})
    assert "model.layers.0.mlp.experts.2.up_proj.weight" in [
        tensor.name for tensor in source.placement.tensors]
