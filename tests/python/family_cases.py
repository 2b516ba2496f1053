"""Random small models of the families with experts, latent attention, Mamba
and the like, and random layouts of them."""

import json

import numpy as np

import cases
import oracle

FAMILIES = {
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM", "glm4_moe": "Glm4MoeForCausalLM",
    "glm_moe_dsa": "GlmMoeDsaForCausalLM", "gpt_oss": "GptOssForCausalLM",
    "nemotron_h": "NemotronHForCausalLM",
    "qwen3_next": "Qwen3NextForCausalLM", "phi3": "Phi3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM", "gemma3": "Gemma3ForCausalLM",
    "qwen3": "Qwen3ForCausalLM", "mixtral": "MixtralForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM",
}
SGLANG = ("qwen3", "mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2",
          "deepseek_v3", "glm4_moe", "glm_moe_dsa", "gpt_oss", "nemotron_h",
          "qwen3_next", "phi3", "gemma2", "gemma3")
# Nobody says how DTensors cut their packed experts and state-space layers.
NO_TP = ("GptOssForCausalLM", "NemotronHForCausalLM", "Qwen3NextForCausalLM")


def random_config(rng, family):
    if FAMILIES[family] in cases.MOE_FAMILIES:
        return cases.random_moe_config(rng, FAMILIES[family])
    config = cases.random_config(rng, FAMILIES[family]) | {
        "model_type": family}
    layers = config["num_hidden_layers"]
    if family in ("gemma2", "gemma3"):
        if rng.integers(2):
            del config["tie_word_embeddings"]  # as if it were true
        else:
            config["tie_word_embeddings"] = True
        return config
    if family in ("phi3", "qwen3"):
        return config
    config["tie_word_embeddings"] = False

    def pick(*values):
        return int(rng.choice(values))

    count, width = pick(2, 4, 6, 8), pick(4, 6, 12)
    if family in ("deepseek_v2", "deepseek_v3", "glm_moe_dsa"):
        config |= {
            "num_key_value_heads": config["num_attention_heads"],
            "q_lora_rank": pick(4, 5, 6), "kv_lora_rank": pick(2, 3, 4),
            "qk_nope_head_dim": pick(2, 3), "qk_rope_head_dim": pick(2, 4),
            "v_head_dim": pick(2, 5)}
        if family != "glm_moe_dsa" and rng.integers(2):
            config["q_lora_rank"] = None
        config.pop("head_dim", None)
    if family in ("deepseek_v2", "deepseek_v3", "glm4_moe", "glm_moe_dsa"):
        config |= {
            "n_routed_experts": count, "moe_intermediate_size": width,
            "n_shared_experts": pick(1, 2), "num_experts_per_tok": 1,
            "first_k_dense_replace": int(rng.integers(layers + 1)),
            "n_group": pick(1, 2), "topk_group": 1}
    if family in ("deepseek_v3", "glm4_moe", "glm_moe_dsa"):
        config["num_nextn_predict_layers"] = pick(0, 0, 1)
    if family in ("deepseek_v3", "glm_moe_dsa"):
        config |= {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}
    if family == "deepseek_v2":
        config["topk_method"] = "greedy"
    if family == "glm4_moe":
        config |= {"attention_bias": bool(rng.integers(2)),
                   "use_qk_norm": bool(rng.integers(2))}
    if family == "glm_moe_dsa":
        config |= {"index_n_heads": pick(1, 2), "index_head_dim": pick(3, 4),
                   "index_topk": 8}
        if rng.integers(2):
            config |= {"index_topk_freq": pick(2, 3),
                       "index_skip_topk_offset": pick(1, 2, 3)}
    if family == "gpt_oss":
        config |= {"num_local_experts": count, "intermediate_size": pick(
            6, 8, 12, 24), "attention_bias": True}
    if family == "nemotron_h":
        _nemotron(rng, config, count, width, pick)
    if family == "qwen3_next":
        keys = pick(1, 2, 4)
        config |= {
            "layer_types": [str(kind) for kind in rng.choice(
                ["linear_attention", "full_attention"], layers)],
            "num_experts": max(count, 4), "num_experts_per_tok": 1,
            "moe_intermediate_size": width,
            "shared_expert_intermediate_size": pick(4, 8, 12),
            "decoder_sparse_step": pick(1, 1, 2), "mlp_only_layers": [],
            "linear_num_key_heads": keys,
            "linear_num_value_heads": keys * pick(1, 2),
            "linear_key_head_dim": pick(2, 3),
            "linear_value_head_dim": pick(2, 4), "linear_conv_kernel_dim": 4}
    return config


def _nemotron(rng, config, count, width, pick):
    layers = config.pop("num_hidden_layers")
    groups = pick(1, 2, 4)
    config |= {
        "hybrid_override_pattern": "".join(rng.choice(list("M*E-"), layers)),
        "num_hidden_layers": layers,
        "mamba_num_heads": groups * pick(1, 2, 4), "mamba_head_dim": pick(2, 3),
        "n_groups": groups, "ssm_state_size": pick(2, 3), "conv_kernel": 4,
        "use_conv_bias": True, "use_bias": False,
        "n_routed_experts": count, "n_shared_experts": 1,
        "moe_intermediate_size": width,
        "moe_shared_expert_intermediate_size": pick(4, 8, 12),
        "num_experts_per_tok": 1, "n_group": 1, "topk_group": 1}
    if "E" not in config["hybrid_override_pattern"]:
        for key in [key for key in config if "expert" in key]:
            del config[key]


def random_checkpoint(rng, config, is_usual=False):
    """{name: Bits}; what files keep wide is mostly wide, always if usual."""
    dtype = {"bfloat16": "BF16", "float16": "F16",
             "float32": "F32"}[config["torch_dtype"]]
    tensors = {}
    # Files may lack the layers that predict further tokens, or only their
    # copies of the embedding and the head.
    shapes = oracle.logical_shapes(config, bool(rng.integers(3)))
    copies = (".shared_head.head.weight",
              f".layers.{config.get('num_hidden_layers')}.embed_tokens.weight")
    lost = copies if rng.integers(2) else ()
    for name, shape in shapes.items():
        if name.endswith(lost):
            continue
        is_narrow = rng.integers(4) == 0 and not is_usual
        wide = None if is_narrow else oracle.dtype_in_file(name)
        of = wide or dtype
        tensors[name] = cases.random_bits(rng, of, shape)
        if name.endswith(("A_log", "linear_attn.norm.weight")):
            # Values are computed of these: finite ones.
            tensors[name] = oracle.synth(name, shape, 5, of)
    return tensors


def random_spec(rng, config, folder):
    """A random layout; lists of placed experts are written into `folder`."""
    spec = cases.random_moe_spec(rng)
    framework, _, items = spec.partition(":")
    keys = [item for item in items.split(",") if item]
    names = {item.partition("=")[0] for item in keys}
    degrees = {n: int(v) for n, _, v in (k.partition("=") for k in keys)
               if v.isdigit()}

    def one_in(count):
        return rng.integers(count) == 0

    if framework == "megatron" and degrees.get("pp", 1) > 1:
        if one_in(3):
            keys.append(f"vpp={rng.choice([2, 3])}")
        if one_in(3) and not names & {"first", "last"}:
            keys += ["embedding_in_split=1", "loss_in_split=1"]
    if framework == "megatron" and config["architectures"][0].startswith(
            "Gpt"):
        keys = [k for k in keys if not k.startswith("etp=")] + ["etp=1"]
    if framework == "fsdp" and config["architectures"][0] in NO_TP:
        keys = [k for k in keys if not k.startswith("tp=")]
    if framework == "fsdp" and one_in(2) and "names=hf" not in keys:
        keys = [k for k in keys if not k.startswith("tp=")]
        keys.append("ep=2")
    if framework == "vllm" and degrees.get("ep", 1) > 1:
        choice = rng.integers(4)
        if choice == 0:
            keys.append("placement=round_robin")
        elif choice == 1:
            keys.append(f"redundant={degrees['ep']}")
        elif choice == 2 and _numbers_sparse_layers(config):
            keys.append(f"eplb={_table(rng, config, degrees['ep'], folder)}")
    return framework + (":" + ",".join(keys) if keys else "")


def random_sglang_spec(rng, config, folder):
    tp = int(rng.choice([1, 2, 3, 4]))
    keys = [f"tp={tp}"]
    if rng.integers(2):
        keys.append(f"pp={rng.choice([2, 3])}")
    if rng.integers(2):
        keys.append(f"dp={rng.choice([2, tp])}")
    if rng.integers(2):
        ep = int(rng.choice([2, tp]))
        keys.append(f"ep={ep}")
        choice = rng.integers(4)
        if choice == 0:
            keys.append(f"redundant={ep}")
        elif choice == 1 and _numbers_sparse_layers(config):
            keys.append(f"eplb={_table(rng, config, ep, folder)}")
    elif rng.integers(3) == 0:
        keys.append("shared_fusion=off")
    return "sglang:" + ",".join(keys)


def _numbers_sparse_layers(config):
    """Recipes cannot count layers that both of these thin out; they say so."""
    return not (config.get("decoder_sparse_step", 1) > 1 and
                config.get("mlp_only_layers"))


def _table(rng, config, ep, folder):
    """Each expert at least once, as many for each rank."""
    m = oracle.model_of(config)
    count = m.experts.count if m.experts else 2
    more = -count % ep + ep * int(rng.integers(2))
    lists = [rng.permutation(np.concatenate(
        [np.arange(count), rng.integers(count, size=more)])).tolist()
        for _ in range(m.mlps.count("experts") or 1)]
    path = folder / f"experts{rng.integers(2**31)}.json"
    path.write_text(json.dumps({"physical_to_logical": lists}))
    return path
