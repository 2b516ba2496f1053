"""transformers' own modules of every family: the files that it writes and the
tensors that it holds in memory are those of `weft shard`, byte for byte."""

import json

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import files  # noqa: E402
import oracle  # noqa: E402

_COMMON = dict(
    hidden_size=12, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=2, head_dim=4, intermediate_size=22, vocab_size=37,
    max_position_embeddings=32, tie_word_embeddings=False, pad_token_id=0,
    bos_token_id=1, eos_token_id=2)
_EXPERTS = dict(n_routed_experts=4, n_group=2, topk_group=1,
                num_experts_per_tok=2, n_shared_experts=2,
                moe_intermediate_size=6, first_k_dense_replace=1)
_LATENT = {k: v for k, v in _COMMON.items() if k != "head_dim"} | _EXPERTS | (
    dict(num_key_value_heads=4, q_lora_rank=5, kv_lora_rank=4,
         qk_nope_head_dim=3, qk_rope_head_dim=4, v_head_dim=5))
_DELTA = dict(
    num_experts=4, num_experts_per_tok=2, moe_intermediate_size=6,
    shared_expert_intermediate_size=10, linear_num_key_heads=2,
    linear_num_value_heads=4, linear_key_head_dim=3, linear_value_head_dim=2,
    linear_conv_kernel_dim=4, decoder_sparse_step=2,
    layer_types=["linear_attention", "full_attention"] * 2)
_HYBRID = dict(
    mamba_num_heads=4, mamba_head_dim=2, n_groups=2, ssm_state_size=3,
    n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2,
    moe_intermediate_size=6, moe_shared_expert_intermediate_size=10,
    hybrid_override_pattern="M*E-")


def _config(name, **values):
    return lambda: getattr(transformers, name + "Config")(**values)


CONFIGS = {
    "LlamaForCausalLM": _config("Llama", **_COMMON, attention_bias=True,
                                mlp_bias=True),
    "MistralForCausalLM": _config("Mistral", **_COMMON),
    "Qwen2ForCausalLM": _config("Qwen2", **_COMMON),
    "Qwen3ForCausalLM": _config("Qwen3", **_COMMON | dict(
        tie_word_embeddings=True)),
    "MixtralForCausalLM": _config("Mixtral", **_COMMON, num_local_experts=4),
    "Qwen2MoeForCausalLM": _config(
        "Qwen2Moe", **_COMMON, num_experts=4, moe_intermediate_size=6,
        shared_expert_intermediate_size=10, decoder_sparse_step=2),
    "Qwen3MoeForCausalLM": _config(
        "Qwen3Moe", **_COMMON, num_experts=4, moe_intermediate_size=6,
        mlp_only_layers=[2]),
    "DeepseekV2ForCausalLM": _config("DeepseekV2", **_LATENT | dict(
        q_lora_rank=None, topk_method="greedy")),
    "DeepseekV3ForCausalLM": _config("DeepseekV3", **_LATENT),
    "Glm4MoeForCausalLM": _config("Glm4Moe", **_COMMON, **_EXPERTS,
                                  attention_bias=True, use_qk_norm=True),
    "GlmMoeDsaForCausalLM": _config(
        "GlmMoeDsa", **_LATENT, index_n_heads=2, index_head_dim=8,
        index_topk_freq=2, index_skip_topk_offset=1),
    "GptOssForCausalLM": _config("GptOss", **_COMMON, num_local_experts=4),
    "NemotronHForCausalLM": _config("NemotronH", **{
        k: v for k, v in (_COMMON | _HYBRID).items()
        if k != "num_hidden_layers"}),
    "Qwen3NextForCausalLM": _config("Qwen3Next", **_COMMON, **_DELTA),
    "Phi3ForCausalLM": _config("Phi3", **_COMMON),
    "Gemma2ForCausalLM": _config("Gemma2", **_COMMON | dict(
        tie_word_embeddings=True)),
    "Gemma3ForCausalLM": _config("Gemma3Text", **_COMMON | dict(
        tie_word_embeddings=True)),
}


@pytest.fixture(params=CONFIGS)
def saved(request, tmp_path):
    """(folder, config.json, what the files hold, what memory holds)."""
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(
        CONFIGS[request.param](), dtype=torch.bfloat16)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape))
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == [request.param]
    model = type(model).from_pretrained(folder, dtype=torch.bfloat16)
    tied = set(model.all_tied_weights_keys)
    memory = {name: _bits(tensor) for name, tensor in
              model.state_dict().items() if name not in tied}
    return folder, config, files.read(folder / "model.safetensors"), memory


def _bits(tensor):
    name, word = {torch.bfloat16: ("BF16", torch.uint16),
                  torch.float32: ("F32", torch.uint32)}[tensor.dtype]
    return oracle.Bits(name, tensor.detach().contiguous().view(word).numpy())


def test_the_oracle_is_right(saved):
    _, config, in_files, memory = saved
    assert {name: tensor.bits.shape for name, tensor in in_files.items()} == (
        oracle.logical_shapes(config, is_predicting=False))
    files.assert_equal(memory, oracle.shard(config, in_files, "fsdp", 0))


def test_shard_is_what_transformers_holds(saved, weft, tmp_path):
    folder, _, in_files, memory = saved
    out = tmp_path / "out.safetensors"
    for spec, expected in (("hf", in_files), ("fsdp", memory)):
        result = weft("shard", "--checkpoint", folder, "--layout", spec,
                      "--rank", 0, "--out", out)
        assert result.returncode == 0, result.stderr
        files.assert_equal(files.read(out), expected)
        out.unlink()
