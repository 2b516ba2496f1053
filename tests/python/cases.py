"""Random small models, checkpoints and layouts."""

import json

import numpy as np

import files
import oracle

FAMILIES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM",
            "Qwen3ForCausalLM")


def random_config(rng):
    family = str(rng.choice(FAMILIES))
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
        "vocab_size": int(rng.choice([24, 60, 64, 130, 193])),
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


def mostly_legal_spec(rng, config, tensors):
    """A random spec; redrawn a few times if the framework would refuse it."""
    for _ in range(4):
        spec = random_spec(rng)
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
