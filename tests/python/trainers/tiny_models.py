"""Tiny transformers models with random weights, the same in every process."""

import torch
import transformers
from safetensors.torch import load_file

# Awkward on purpose: a prime vocabulary, an MLP that halves unevenly.
_COMMON = dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=4,
               num_key_value_heads=2, head_dim=4, intermediate_size=22,
               vocab_size=37, max_position_embeddings=32,
               tie_word_embeddings=False)

CONFIGS = {
    "llama-tied": lambda: transformers.LlamaConfig(
        **_COMMON | dict(tie_word_embeddings=True)),
    "qwen2": lambda: transformers.Qwen2Config(**_COMMON),
    "qwen3": lambda: transformers.Qwen3Config(**_COMMON),
    "qwen3-moe": lambda: transformers.Qwen3MoeConfig(
        **_COMMON | dict(num_experts=4, num_experts_per_tok=2,
                         moe_intermediate_size=6, num_hidden_layers=1)),
    "mixtral": lambda: transformers.MixtralConfig(
        **_COMMON | dict(num_local_experts=4, num_hidden_layers=1,
                         intermediate_size=6)),
    "deepseek-v3": lambda: transformers.DeepseekV3Config(
        hidden_size=12, intermediate_size=10, moe_intermediate_size=4,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        vocab_size=37, n_routed_experts=4, n_group=2, topk_group=1,
        num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1,
        q_lora_rank=5, kv_lora_rank=4, qk_nope_head_dim=4, qk_rope_head_dim=4,
        v_head_dim=4, tie_word_embeddings=False),
}


def build(family, dtype=torch.bfloat16):
    """The model; every parameter and persistent buffer is random, so that
    none can be taken for another."""
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(
        CONFIGS[family](), dtype=dtype)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape))
    return model


def checkpoint(family, folder, dtype=torch.bfloat16):
    """The tensors of the files that transformers writes of the model."""
    build(family, dtype).save_pretrained(folder)
    return load_file(folder / "model.safetensors")
