"""Tiny random checkpoints of mixtures of experts and of latent attention,
written from the rules of the Hugging Face formats."""

import torch

import tiny_models

_KINDS = {
    "qwen3_moe": {"architectures": ["Qwen3MoeForCausalLM"], "head_dim": 32,
                  "num_experts": 5, "num_experts_per_tok": 2,
                  "moe_intermediate_size": 40, "decoder_sparse_step": 1,
                  "norm_topk_prob": True, "mlp_only_layers": []},
    "qwen2_moe": {"architectures": ["Qwen2MoeForCausalLM"],
                  "num_experts": 4, "num_experts_per_tok": 2,
                  "moe_intermediate_size": 64, "decoder_sparse_step": 1,
                  "norm_topk_prob": False, "mlp_only_layers": [],
                  "shared_expert_intermediate_size": 96, "qkv_bias": True},
    "mixtral": {"architectures": ["MixtralForCausalLM"],
                "num_local_experts": 4, "num_experts_per_tok": 2,
                "intermediate_size": 96, "sliding_window": None},
    "deepseek_v3": {"architectures": ["DeepseekV3ForCausalLM"],
                    "num_key_value_heads": 4, "q_lora_rank": 48,
                    "kv_lora_rank": 512, "qk_nope_head_dim": 32,
                    "qk_rope_head_dim": 64, "v_head_dim": 32,
                    "first_k_dense_replace": 1, "n_routed_experts": 4,
                    "n_shared_experts": 1, "num_experts_per_tok": 2,
                    "moe_intermediate_size": 64, "n_group": 1,
                    "topk_group": 1, "topk_method": "noaux_tc",
                    "scoring_func": "sigmoid", "norm_topk_prob": True,
                    "routed_scaling_factor": 1.0, "moe_layer_freq": 1,
                    "num_nextn_predict_layers": 0},
}


def config_of(kind, **changes):
    config = tiny_models.config_of("qwen2", tied=False) | {"model_type": kind}
    return config | _KINDS[kind] | changes


def shapes_of(config):
    """{name: shape} of all tensors in the file."""
    h, rows = config["hidden_size"], config["vocab_size"]
    shapes = {"model.embed_tokens.weight": (rows, h)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        shapes |= {at + "input_layernorm.weight": (h,),
                   at + "post_attention_layernorm.weight": (h,)}
        if config["model_type"] == "deepseek_v3":
            shapes |= _latent_attention(at + "self_attn.", config)
        else:
            shapes |= _attention(at + "self_attn.", config)
        shapes |= _mlp(at, layer, config)
    return shapes | {"model.norm.weight": (h,), "lm_head.weight": (rows, h)}


def random_tensors(config, seed):
    return tiny_models.random_of(shapes_of(config), seed, lambda name: (
        torch.float32 if name.endswith("correction_bias") else torch.bfloat16))


def _attention(at, config):
    h, heads = config["hidden_size"], config["num_attention_heads"]
    kv, d = config["num_key_value_heads"], config.get("head_dim", h // heads)
    shapes = {at + "q_proj.weight": (heads * d, h),
              at + "k_proj.weight": (kv * d, h),
              at + "v_proj.weight": (kv * d, h),
              at + "o_proj.weight": (h, heads * d)}
    if config.get("qkv_bias"):
        shapes |= {at + "q_proj.bias": (heads * d,),
                   at + "k_proj.bias": (kv * d,),
                   at + "v_proj.bias": (kv * d,)}
    if config["model_type"] == "qwen3_moe":
        shapes |= {at + "q_norm.weight": (d,), at + "k_norm.weight": (d,)}
    return shapes


def _latent_attention(at, config):
    h, heads = config["hidden_size"], config["num_attention_heads"]
    nope, rope = config["qk_nope_head_dim"], config["qk_rope_head_dim"]
    v, q, kv = (config["v_head_dim"], config["q_lora_rank"],
                config["kv_lora_rank"])
    return {at + "q_a_proj.weight": (q, h), at + "q_a_layernorm.weight": (q,),
            at + "q_b_proj.weight": (heads * (nope + rope), q),
            at + "kv_a_proj_with_mqa.weight": (kv + rope, h),
            at + "kv_a_layernorm.weight": (kv,),
            at + "kv_b_proj.weight": (heads * (nope + v), kv),
            at + "o_proj.weight": (h, heads * v)}


def _mlp(at, layer, config):
    h, kind = config["hidden_size"], config["model_type"]
    if kind == "mixtral":
        i = config["intermediate_size"]
        shapes = {at + "block_sparse_moe.gate.weight":
                  (config["num_local_experts"], h)}
        for e in range(config["num_local_experts"]):
            here = f"{at}block_sparse_moe.experts.{e}."
            shapes |= {here + "w1.weight": (i, h), here + "w3.weight": (i, h),
                       here + "w2.weight": (h, i)}
        return shapes
    at += "mlp."
    if layer < config.get("first_k_dense_replace", 0):
        return _swiglu(at, h, config["intermediate_size"])
    i = config["moe_intermediate_size"]
    experts = config.get("num_experts", config.get("n_routed_experts"))
    shapes = {at + "gate.weight": (experts, h)}
    for e in range(experts):
        shapes |= _swiglu(f"{at}experts.{e}.", h, i)
    if kind == "qwen2_moe":
        shapes |= _swiglu(at + "shared_expert.", h,
                          config["shared_expert_intermediate_size"])
        shapes[at + "shared_expert_gate.weight"] = (1, h)
    if kind == "deepseek_v3":
        shapes |= _swiglu(at + "shared_experts.", h,
                          i * config["n_shared_experts"])
        shapes[at + "gate.e_score_correction_bias"] = (experts,)
    return shapes


def _swiglu(at, hidden, intermediate):
    return {at + "gate_proj.weight": (intermediate, hidden),
            at + "up_proj.weight": (intermediate, hidden),
            at + "down_proj.weight": (hidden, intermediate)}
