"""Random small models, checkpoints and layouts."""

import json

import numpy as np

import files
import oracle

FAMILIES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM",
            "Qwen3ForCausalLM")
MOE_FAMILIES = ("MixtralForCausalLM", "Qwen2MoeForCausalLM",
                "Qwen3MoeForCausalLM")


def random_moe_config(rng, family=None):
    """A mixture of experts: some layers dense, widths odd, few experts."""
    family = family or str(rng.choice(MOE_FAMILIES))
    config = random_config(rng, family)
    count = int(rng.choice([2, 3, 4, 6, 8]))
    if family == "MixtralForCausalLM":
        return config | {"num_local_experts": count}
    config |= {"num_experts": count,
               "moe_intermediate_size": int(rng.choice([4, 5, 6, 12]))}
    if rng.integers(2):
        config["decoder_sparse_step"] = int(rng.choice([1, 2]))
    if rng.integers(2):
        layers = np.arange(config["num_hidden_layers"])
        config["mlp_only_layers"] = layers[
            rng.integers(3, size=layers.size) == 0].tolist()
    if family == "Qwen2MoeForCausalLM":
        config["shared_expert_intermediate_size"] = int(
            rng.choice([4, 8, 12]))
        if rng.integers(2):
            config["qkv_bias"] = bool(rng.integers(2))
    return config


def random_config(rng, family=None):
    family = family or str(rng.choice(FAMILIES))
    groups = int(rng.choice([1, 2, 3, 4]))
    heads = groups * int(rng.choice([1, 2, 3]))
    head_dim = int(rng.choice([2, 4, 6]))
    config = {
        "architectures": [family],
        "hidden_size": int(rng.integers(3, 20)),
        "num_hidden_layers": int(rng.integers(1, 6)),
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": head_dim,
        "intermediate_size": int(rng.choice([6, 8, 12, 24])),
        "vocab_size": int(rng.choice([24, 60, 64, 130, 193, 1003])),
        "tie_word_embeddings": bool(rng.integers(2)),
        "torch_dtype": str(rng.choice(["bfloat16", "float32", "float16"])),
    }
    if rng.integers(2):  # the common case, where head_dim may be left out
        config["hidden_size"] = heads * head_dim
        if rng.integers(2):
            del config["head_dim"]
    if family == "LlamaForCausalLM":
        config["attention_bias"] = bool(rng.integers(2))
        config["mlp_bias"] = bool(rng.integers(2))
    return config


def random_bits(rng, dtype, shape):
    """Every bit pattern, also infinities, NaN and subnormal values."""
    word = oracle.WORDS[dtype]
    bits = rng.integers(0, np.iinfo(word).max, size=shape, dtype=word,
                        endpoint=True)
    return oracle.Bits(dtype, bits)


def random_checkpoint(rng, config):
    """{name: Bits}; norms sometimes in another dtype than the rest."""
    dtypes = [str(rng.choice(["BF16", "F16", "F32"])) for _ in range(2)]
    return {
        name: random_bits(rng, dtypes[len(shape) == 1 and "norm" in name],
                          shape)
        for name, shape in oracle.logical_shapes(config).items()
    }


def random_moe_spec(rng):
    """A random spec, often with a grid for the experts."""
    spec = random_spec(rng)
    framework, _, items = spec.partition(":")
    keys = [item for item in items.split(",") if item]
    degree = {key: int(value) for key, value in
              (item.split("=") for item in keys) if value.isdigit()}
    if framework == "vllm" and rng.integers(2):
        keys.append(f"ep={degree.get('tp', 1) * degree.get('dp', 1)}")
    if framework == "megatron":
        if "dp" not in degree and rng.integers(2):
            keys.append(f"dp={rng.choice([2, 4])}")
        keys += [f"{name}={rng.choice([1, 2, 3, 4])}" for name in
                 ("ep", "etp") if rng.integers(2)]
        if rng.integers(2):
            keys.append("experts=" + str(rng.choice(["grouped",
                                                     "sequential"])))
    return framework + (":" + ",".join(keys) if keys else "")


def random_spec(rng):
    def degrees(*names):
        return [f"{name}={int(rng.choice([1, 2, 3, 4]))}" for name in names
                if rng.integers(2)]

    framework = str(rng.choice(["hf", "fsdp", "megatron", "vllm"]))
    items = []
    if framework == "fsdp":
        items = degrees("shard", "replicate", "tp")
        if rng.integers(3) == 0:
            items.append("names=" + str(rng.choice(["memory", "hf"])))
    elif framework == "megatron":
        items = degrees("tp", "pp")
        if rng.integers(3) == 0:
            items += degrees("cp", "dp", "first", "last")
        if rng.integers(2):
            items.append(f"vocab_divisor={rng.choice([1, 8, 64, 128])}")
        if rng.integers(2):
            items.append("impl=" + str(rng.choice(["te", "local"])))
    elif framework == "vllm":
        items = degrees("tp", "pp")
        if rng.integers(3) == 0:
            items += degrees("dp")
    if rng.integers(4) == 0:
        items.append("dtype=" + str(rng.choice(["bf16", "f16", "f32"])))
    return framework + (":" + ",".join(items) if items else "")


def mostly_legal_spec(rng, config, tensors, draw=random_spec):
    """A random spec; redrawn a few times if the framework would refuse it."""
    for _ in range(4):
        spec = draw(rng)
        if is_legal(config, tensors, spec):
            break
    return spec


def is_legal(config, tensors, spec):
    try:
        for rank in range(oracle.num_ranks(spec)):
            oracle.shard(config, tensors, spec, rank)
    except oracle.Illegal:
        return False
    return True


def write_checkpoint(folder, config, tensors):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    files.write(folder / "model.safetensors", tensors)
