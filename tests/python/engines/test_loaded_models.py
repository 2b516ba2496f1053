"""What real vLLM ranks hold after their own loader is what `weft shard` writes
for them and what the NumPy oracle says, byte for byte."""

import numpy as np
import pytest

import files
import oracle
from loaded_ranks import Case, captured, import_engine, loaded, write
from rank_processes import run_ranks

COMMON = {
    "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 96,
    "vocab_size": 1003, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu",
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "initializer_range": 0.02, "attention_bias": False,
    "attention_dropout": 0.0, "num_experts_per_tok": 2,
    "norm_topk_prob": True, "routed_scaling_factor": 1.0}
LATENT = COMMON | {
    "num_key_value_heads": 4, "q_lora_rank": 48, "kv_lora_rank": 512,
    "qk_nope_head_dim": 32, "qk_rope_head_dim": 64, "v_head_dim": 32,
    "first_k_dense_replace": 1, "n_routed_experts": 6, "n_shared_experts": 1,
    "moe_intermediate_size": 64, "n_group": 2, "topk_group": 1,
    "topk_method": "noaux_tc", "scoring_func": "sigmoid",
    "moe_layer_freq": 1, "num_nextn_predict_layers": 0}
del LATENT["head_dim"]
CONFIGS = {
    "qwen3_moe": COMMON | {
        "architectures": ["Qwen3MoeForCausalLM"], "num_experts": 6,
        "moe_intermediate_size": 32, "decoder_sparse_step": 1,
        "mlp_only_layers": [1]},
    "mixtral": COMMON | {
        "architectures": ["MixtralForCausalLM"], "num_local_experts": 4},
    "deepseek_v3": LATENT | {"architectures": ["DeepseekV3ForCausalLM"]},
    "deepseek_v2": LATENT | {
        "architectures": ["DeepseekV2ForCausalLM"], "q_lora_rank": None,
        "topk_method": "greedy", "scoring_func": "softmax"},
    "glm_moe_dsa": LATENT | {
        "architectures": ["GlmMoeDsaForCausalLM"], "index_n_heads": 2,
        "index_head_dim": 128, "index_topk": 8, "index_topk_freq": 2,
        "index_skip_topk_offset": 1},
    "glm4_moe": COMMON | {
        "architectures": ["Glm4MoeForCausalLM"], "n_routed_experts": 6,
        "n_shared_experts": 1, "first_k_dense_replace": 1,
        "moe_intermediate_size": 32, "n_group": 2, "topk_group": 1,
        "attention_bias": True, "use_qk_norm": True,
        "partial_rotary_factor": 0.5, "num_nextn_predict_layers": 0},
    "gpt_oss": COMMON | {
        "architectures": ["GptOssForCausalLM"], "num_local_experts": 6,
        "attention_bias": True, "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention",
                        "full_attention"],
        "rope_scaling": {"rope_type": "yarn", "factor": 32.0,
                         "beta_fast": 32.0, "beta_slow": 1.0,
                         "original_max_position_embeddings": 4096}},
    "qwen3_next": COMMON | {
        "architectures": ["Qwen3NextForCausalLM"], "num_experts": 6,
        "moe_intermediate_size": 32, "shared_expert_intermediate_size": 64,
        "decoder_sparse_step": 1, "mlp_only_layers": [],
        "layer_types": ["linear_attention", "full_attention",
                        "linear_attention"],
        "partial_rotary_factor": 0.25, "linear_num_key_heads": 4,
        "linear_num_value_heads": 8, "linear_key_head_dim": 16,
        "linear_value_head_dim": 32, "linear_conv_kernel_dim": 4},
    "nemotron_h": COMMON | {
        "architectures": ["NemotronHForCausalLM"],
        "hybrid_override_pattern": "ME*-E", "num_hidden_layers": 5,
        "mamba_num_heads": 8, "mamba_head_dim": 16, "n_groups": 4,
        "ssm_state_size": 16, "conv_kernel": 4, "use_conv_bias": True,
        "use_bias": False, "n_routed_experts": 6, "n_shared_experts": 1,
        "moe_intermediate_size": 32, "mlp_hidden_act": "relu2",
        "moe_shared_expert_intermediate_size": 64, "n_group": 2,
        "topk_group": 1, "mamba_hidden_act": "silu", "expand": 1,
        "chunk_size": 16, "layer_norm_epsilon": 1e-5, "mlp_bias": False,
        "mamba_proj_bias": False},
    "phi3": COMMON | {"architectures": ["Phi3ForCausalLM"],
                      "original_max_position_embeddings": 512},
    "gemma2": COMMON | {
        "architectures": ["Gemma2ForCausalLM"], "tie_word_embeddings": True,
        "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 32,
        "sliding_window": 16, "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0},
    "gemma3": COMMON | {
        "architectures": ["Gemma3ForCausalLM"], "tie_word_embeddings": True,
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 32,
        "sliding_window": 16, "sliding_window_pattern": 2},
}
LAYOUTS = {
    "qwen3_moe": ["vllm:tp=2", "vllm:tp=4,ep=4,placement=round_robin",
                  "vllm:tp=2,dp=2,ep=4,redundant=2", "vllm:dp=2",
                  "vllm:tp=2,pp=2"],
    "mixtral": ["vllm:tp=2", "vllm:tp=2,pp=2,ep=2"],
    "deepseek_v3": ["vllm:tp=2", "vllm:tp=4,ep=4,placement=round_robin",
                    "vllm:tp=2,dp=2,ep=4", "vllm:tp=2,pp=2,ep=2",
                    "vllm:tp=2,ep=2,redundant=2"],
    "deepseek_v2": ["vllm:tp=2,ep=2"],
    "glm4_moe": ["vllm:tp=2", "vllm:tp=2,dp=2,ep=4", "vllm:tp=2,pp=2"],
    "glm_moe_dsa": ["vllm:tp=2,ep=2"],
    "gpt_oss": ["vllm:tp=2", "vllm:tp=2,ep=2", "vllm:tp=2,dp=2",
                "vllm:tp=2,pp=2,ep=2"],
    "qwen3_next": ["vllm:tp=2", "vllm:tp=4", "vllm:tp=2,dp=2,ep=4",
                   "vllm:tp=2,pp=2"],
    "nemotron_h": ["vllm:tp=2", "vllm:tp=4", "vllm:tp=2,dp=2,ep=4"],
    "phi3": ["vllm:tp=2", "vllm:tp=4", "vllm:tp=2,pp=2"],
    "gemma2": ["vllm:tp=2", "vllm:tp=2,pp=2"],
    "gemma3": ["vllm:tp=2", "vllm:tp=2,pp=2"],
}
PAIRS = [(kind, spec) for kind, specs in LAYOUTS.items() for spec in specs]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """{(kind, spec): [{parameter: Bits} of each rank]}, and the checkpoints:
    {kind: (folder, config, tensors)}."""
    root = tmp_path_factory.mktemp("loaded")
    checkpoints = {}
    for number, (kind, config) in enumerate(CONFIGS.items()):
        config = {"model_type": kind} | config
        folder = root / kind
        checkpoints[kind] = (folder, config, write(folder, config, number))
    import_engine(c["architectures"][0] for c in CONFIGS.values())
    ranks = {}
    for world in (2, 4):
        pairs = [pair for pair in PAIRS if oracle.num_ranks(pair[1]) == world]
        results = run_ranks(loaded, world, root, [
            Case(str(checkpoints[kind][0]), spec) for kind, spec in pairs],
            deadline_seconds=300)
        for i, pair in enumerate(pairs):
            ranks[pair] = [of_rank[i] for of_rank in results]
    return ranks, checkpoints


def assert_equal(found, expected):
    """Bytes; but what a rank computes (Mamba's A) may differ by one in the
    last place."""
    computed = {name for name in expected if name.endswith(".mixer.A")}
    files.assert_equal({n: t for n, t in found.items() if n not in computed},
                       {n: t for n, t in expected.items()
                        if n not in computed})
    for name in computed:
        difference = (found[name].bits.astype(np.int64) -
                      expected[name].bits.astype(np.int64))
        assert np.abs(difference).max() <= 1, name


@pytest.mark.parametrize("kind,spec", PAIRS)
def test_the_oracle_is_right(made, kind, spec):
    ranks, checkpoints = made
    _, config, tensors = checkpoints[kind]
    for rank, held in enumerate(ranks[kind, spec]):
        assert_equal(held, oracle.shard(config, tensors, spec, rank))


@pytest.mark.parametrize("kind,spec", PAIRS)
def test_shard_is_what_the_engine_loads(made, weft, tmp_path, kind, spec):
    ranks, checkpoints = made
    for rank, held in enumerate(ranks[kind, spec]):
        out = tmp_path / f"{rank}.safetensors"
        result = weft("shard", "--checkpoint", checkpoints[kind][0],
                      "--layout", spec, "--rank", rank, "--out", out)
        assert result.returncode == 0, result.stderr
        assert_equal(files.read(out), held)


def test_replicas_that_share_experts_are_one_mesh(made, tmp_path):
    """The plug-in's view of each rank: its layout, its number, and what it
    captured of the loader, which the recipe describes alike."""
    _, checkpoints = made
    pairs = [("qwen3_moe", "vllm:tp=2,ep=4,dp=2"),
             ("qwen3_moe", "vllm:tp=2,dp=2"), ("qwen3_moe", "vllm:tp=4,ep=4"),
             ("deepseek_v3", "vllm:tp=4,ep=4,placement=round_robin"),
             ("qwen3_moe", "vllm:tp=2,pp=2"), ("glm4_moe", "vllm:ep=4,dp=4"),
             ("gpt_oss", "vllm:tp=2,dp=2")]
    results = run_ranks(captured, 4, tmp_path, [
        Case(str(checkpoints[kind][0]), spec) for kind, spec in pairs],
        deadline_seconds=300)
    for rank, of_rank in enumerate(results):
        assert of_rank == [(spec, rank, 4, "agrees") for _, spec in pairs]


def test_replicas_of_dense_models_are_meshes_of_their_own(made, tmp_path):
    _, checkpoints = made
    results = run_ranks(captured, 4, tmp_path, [
        Case(str(checkpoints["phi3"][0]), "vllm:tp=2,dp=2")])
    for rank, (of_rank,) in enumerate(results):
        assert of_rank == ("vllm:tp=2", rank % 2, 2, "agrees")
