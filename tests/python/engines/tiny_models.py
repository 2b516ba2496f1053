"""Tiny random checkpoints of real architectures, written from the rules of
the Hugging Face formats."""

import json

import safetensors.torch
import torch


def config_of(kind, *, tied, vocabulary=1003, layers=2):
    return {
        "qwen2": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
        "qwen3": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
                  "head_dim": 32},
    }[kind] | {
        "hidden_size": 128, "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": vocabulary, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": tied, "torch_dtype": "bfloat16",
        "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.02,
        "use_sliding_window": False, "attention_bias": False,
        "attention_dropout": 0.0,
    }


def shapes_of(config):
    """{name: shape} of all tensors in the file."""
    h, i = config["hidden_size"], config["intermediate_size"]
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    d = config.get("head_dim", h // heads)
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], h)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        shapes |= {at + "input_layernorm.weight": (h,),
                   at + "post_attention_layernorm.weight": (h,),
                   at + "self_attn.q_proj.weight": (heads * d, h),
                   at + "self_attn.k_proj.weight": (kv * d, h),
                   at + "self_attn.v_proj.weight": (kv * d, h),
                   at + "self_attn.o_proj.weight": (h, heads * d),
                   at + "mlp.gate_proj.weight": (i, h),
                   at + "mlp.up_proj.weight": (i, h),
                   at + "mlp.down_proj.weight": (h, i)}
        if config["model_type"] == "qwen2":
            shapes |= {at + "self_attn.q_proj.bias": (heads * d,),
                       at + "self_attn.k_proj.bias": (kv * d,),
                       at + "self_attn.v_proj.bias": (kv * d,)}
        if config["model_type"] == "qwen3":
            shapes |= {at + "self_attn.q_norm.weight": (d,),
                       at + "self_attn.k_norm.weight": (d,)}
    shapes["model.norm.weight"] = (h,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], h)
    return shapes


def random_tensors(config, seed):
    return random_of(shapes_of(config), seed)


def random_of(shapes, seed, dtype_of=lambda name: torch.bfloat16):
    """{name: tensor} of these shapes; norms lie around one."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator) * 0.1
        if "norm" in name:
            value += 1
        tensors[name] = value.to(dtype_of(name))
    return tensors


def write(folder, config, tensors):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    return folder
