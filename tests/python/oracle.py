"""What every rank of every framework holds, in NumPy, from their rules.

Independent of the C++ code and of its recipe files: written from the rules of
Megatron-Core, vLLM and FSDP2 for dense decoders (Llama, Mistral, Qwen2, Qwen3)
and mixtures of experts (Mixtral, Qwen2-MoE, Qwen3-MoE; oracle_experts.py).
Nothing here knows index maps, modes or runs; rows are picked by index arrays.
"""

from typing import NamedTuple

import numpy as np

from oracle_experts import (Experts, expert_shapes, experts_of, gated,
                            in_memory, megatron_experts, megatron_moe,
                            vllm_experts, vllm_moe)
from oracle_values import (WORDS, Bits, Illegal, cast, chunk, concat, even,
                           step, synth)

__all__ = ["WORDS", "Bits", "Illegal", "cast", "logical_shapes", "model_of",
           "num_ranks", "shard", "step", "synth"]

# ---- models ---------------------------------------------------------------


class Model(NamedTuple):
    """The sizes of a decoder, under the names of the papers."""
    H: int
    L: int
    Hq: int
    G: int
    D: int
    I: int
    V: int
    tied: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    experts: Experts | None = None

    def has_experts(self, layer):
        return (self.experts is not None and
                layer not in self.experts.dense_layers)

    @property
    def has_dense_layer(self):
        return not all(map(self.has_experts, range(self.L)))


def model_of(config):
    family = config["architectures"][0]
    attention_bias = bool(config.get("attention_bias", False))
    heads = config["num_attention_heads"]
    return Model(
        H=config["hidden_size"], L=config["num_hidden_layers"], Hq=heads,
        G=config.get("num_key_value_heads", heads),
        D=config.get("head_dim") or config["hidden_size"] // heads,
        I=config["intermediate_size"], V=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=(attention_bias or family == "Qwen2ForCausalLM" or
                  family == "Qwen2MoeForCausalLM" and
                  config.get("qkv_bias", True)),
        o_bias=attention_bias,
        mlp_bias=bool(config.get("mlp_bias", False)),
        qk_norm=family in ("Qwen3ForCausalLM", "Qwen3MoeForCausalLM"),
        experts=experts_of(config))


def logical_shapes(config):
    """{checkpoint name: shape}."""
    m = model_of(config)
    q, kv = m.Hq * m.D, m.G * m.D
    shapes = {"model.embed_tokens.weight": (m.V, m.H),
              "model.norm.weight": (m.H,)}
    if not m.tied:
        shapes["lm_head.weight"] = (m.V, m.H)
    layer = {
        "input_layernorm.weight": (m.H,),
        "post_attention_layernorm.weight": (m.H,),
        "self_attn.q_proj.weight": (q, m.H),
        "self_attn.k_proj.weight": (kv, m.H),
        "self_attn.v_proj.weight": (kv, m.H),
        "self_attn.o_proj.weight": (m.H, q),
    }
    if m.qkv_bias:
        layer |= {"self_attn.q_proj.bias": (q,), "self_attn.k_proj.bias": (kv,),
                  "self_attn.v_proj.bias": (kv,)}
    if m.o_bias:
        layer["self_attn.o_proj.bias"] = (m.H,)
    if m.qk_norm:
        layer |= {"self_attn.q_norm.weight": (m.D,),
                  "self_attn.k_norm.weight": (m.D,)}
    for i in range(m.L):
        mlp = expert_shapes(m) if m.has_experts(i) else _mlp_shapes(m)
        shapes |= {f"model.layers.{i}.{n}": s for n, s in
                   (layer | mlp).items()}
    return shapes


def _mlp_shapes(m):
    shapes = gated("mlp.", m.H, m.I)
    if m.mlp_bias:
        shapes |= {"mlp.gate_proj.bias": (m.I,), "mlp.up_proj.bias": (m.I,),
                   "mlp.down_proj.bias": (m.H,)}
    return shapes


# ---- layouts --------------------------------------------------------------


def parse_spec(spec):
    framework, _, items = spec.partition(":")
    keys = dict(item.split("=") for item in items.split(",") if item)
    return framework, {k: int(v) if v.isdigit() else v
                       for k, v in keys.items()}


def num_ranks(spec):
    framework, keys = parse_spec(spec)
    degrees = {"hf": [], "fsdp": ["shard", "replicate", "tp"],
               "megatron": ["tp", "pp", "cp", "dp"],
               "vllm": ["tp", "pp", "dp"]}[framework]
    count = 1
    for key in degrees:
        count *= keys.get(key, 1)
    return count


def shard(config, tensors, spec, rank):
    """{stored name: Bits} of one rank. `tensors`: the checkpoint's, by name."""
    framework, keys = parse_spec(spec)
    held = {"hf": _hf, "fsdp": _fsdp, "megatron": _megatron,
            "vllm": _vllm}[framework](model_of(config), tensors, keys, rank)
    dtype = {"bf16": "BF16", "f16": "F16", "f32": "F32"}.get(keys.get("dtype"))
    if dtype:
        held = {name: cast(tensor, dtype) for name, tensor in held.items()}
    return held


def _padded_rows(tensor, padded, begin, end):
    """Rows [begin, end) of the tensor with zero rows up to `padded`."""
    zeros = np.zeros((padded - tensor.bits.shape[0], tensor.bits.shape[1]),
                     tensor.bits.dtype)
    return concat([tensor, Bits(tensor.dtype, zeros)]).rows(slice(begin, end))


def _hf(m, tensors, keys, rank):
    return dict(tensors)


def _fsdp(m, tensors, keys, rank):
    shards, tp = keys.get("shard", 1), keys.get("tp", 1)
    if m.experts and keys.get("names", "memory") == "memory":
        if tp > 1 and any(map(m.has_experts, range(m.L))):
            raise Illegal("tensor parallelism of fused experts")
        tensors = in_memory(m, tensors)
    tp_rank, shard_rank = rank % tp, rank // tp % shards
    held = {}
    for name, tensor in tensors.items():
        is_bias = name.endswith(".bias")
        if any(part in name for part in
               ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj",
                "embed_tokens", "lm_head", ".w1.", ".w3.")):
            n = tensor.bits.shape[0]
            tensor = tensor.rows(slice(*chunk(n, tp, tp_rank)))
        elif any(part in name for part in ("o_proj", "down_proj", ".w2.")
                 ) and not is_bias:
            tensor = tensor.columns(*chunk(tensor.bits.shape[1], tp, tp_rank))
        rows = chunk(tensor.bits.shape[0], shards, shard_rank)
        held[name] = tensor.rows(slice(*rows))
    return held


def _group_rows(m, q, k, v):
    """Megatron's linear_qkv: per query group its q heads, then k, then v."""
    n = m.Hq // m.G
    merged = np.empty(((m.Hq + 2 * m.G) * m.D,) + q.bits.shape[1:],
                      q.bits.dtype)
    for head in range(m.Hq):
        at = (head // n * (n + 2) + head % n) * m.D
        merged[at:at + m.D] = q.bits[head * m.D:(head + 1) * m.D]
    for group in range(m.G):
        rows = slice(group * m.D, (group + 1) * m.D)
        at = (group * (n + 2) + n) * m.D
        merged[at:at + m.D] = k.bits[rows]
        merged[at + m.D:at + 2 * m.D] = v.bits[rows]
    return Bits(q.dtype, merged)


def _megatron_layers(m, keys, stage):
    pp, first, last = keys.get("pp", 1), keys.get("first"), keys.get("last")
    if first is None and last is None:
        return range(*even(m.L, pp, stage))
    middle = pp - (first is not None) - (last is not None)
    rest = m.L - (first or 0) - (last or 0)
    if pp == 1 or rest < 0 or (middle == 0) != (rest == 0) or (
            middle and rest % middle):
        raise Illegal("layers do not come out")
    counts = ([first] if first is not None else []) + (
        [rest // max(middle, 1)] * middle) + ([last] if last is not None else [])
    begin = sum(counts[:stage])
    return range(begin, begin + counts[stage])


def _megatron(m, tensors, keys, rank):
    tp, pp = keys.get("tp", 1), keys.get("pp", 1)
    tp_rank = rank % tp
    stage = rank // (tp * keys.get("cp", 1) * keys.get("dp", 1))
    if m.Hq % tp or not (m.G % tp == 0 or tp % m.G == 0):
        raise Illegal("heads")
    divisor = keys.get("vocab_divisor")
    padded = (-(-m.V // (divisor * tp)) * divisor * tp) if divisor else m.V
    vocab = even(padded, tp, tp_rank)
    local = keys.get("impl", "te") == "local"
    deal = megatron_experts(m, keys, rank)
    if m.has_dense_layer:
        even(m.I, tp, tp_rank)
    held = {}
    if stage == 0:
        held["embedding.word_embeddings.weight"] = _padded_rows(
            tensors["model.embed_tokens.weight"], padded, *vocab)
    for here, layer in enumerate(_megatron_layers(m, keys, stage)):
        hf = {n.removeprefix(f"model.layers.{layer}."): t
              for n, t in tensors.items()
              if n.startswith(f"model.layers.{layer}.")}
        out = {}
        norm = ("input_layernorm.weight" if local else
                "self_attention.linear_qkv.layer_norm_weight")
        out[norm] = hf["input_layernorm.weight"]
        sparse = m.has_experts(layer)
        norm = ("pre_mlp_layernorm.weight" if local or sparse else
                "mlp.linear_fc1.layer_norm_weight")
        out[norm] = hf["post_attention_layernorm.weight"]
        qkv = even((m.Hq + 2 * m.G) * m.D, tp, tp_rank)
        for kind in ("weight", "bias"):
            if f"self_attn.q_proj.{kind}" in hf:
                out[f"self_attention.linear_qkv.{kind}"] = _group_rows(
                    m, *(hf[f"self_attn.{x}_proj.{kind}"] for x in "qkv")
                ).rows(slice(*qkv))
            if f"mlp.gate_proj.{kind}" in hf:
                out[f"mlp.linear_fc1.{kind}"] = concat(
                    [hf[f"mlp.{x}_proj.{kind}"].rows(
                        slice(*even(m.I, tp, tp_rank)))
                     for x in ("gate", "up")])
        out["self_attention.linear_proj.weight"] = hf[
            "self_attn.o_proj.weight"].columns(*even(m.Hq * m.D, tp, tp_rank))
        if sparse:
            out |= megatron_moe(m, hf, keys, tp_rank, deal)
        else:
            out["mlp.linear_fc2.weight"] = hf["mlp.down_proj.weight"].columns(
                *even(m.I, tp, tp_rank))
        for megatron, name in (
                ("self_attention.linear_proj.bias", "self_attn.o_proj.bias"),
                ("mlp.linear_fc2.bias", "mlp.down_proj.bias"),
                ("self_attention.q_layernorm.weight",
                 "self_attn.q_norm.weight"),
                ("self_attention.k_layernorm.weight",
                 "self_attn.k_norm.weight")):
            if name in hf:
                out[megatron] = hf[name]
        held |= {f"decoder.layers.{here}.{n}": t for n, t in out.items()}
    if stage == pp - 1:
        held["decoder.final_layernorm.weight"] = tensors["model.norm.weight"]
        if not (m.tied and pp == 1):
            head = "model.embed_tokens" if m.tied else "lm_head"
            held["output_layer.weight"] = _padded_rows(
                tensors[head + ".weight"], padded, *vocab)
    return held


def _vllm_layers(m, pp, stage):
    counts = [m.L // pp] * pp
    # The remainder goes to the stages before the last, from the back.
    for j in range(2, m.L % pp + 2):
        counts[pp - j] += 1
    begin = sum(counts[:stage])
    return range(begin, begin + counts[stage])


def _vllm(m, tensors, keys, rank):
    tp, pp = keys.get("tp", 1), keys.get("pp", 1)
    tp_rank, stage = rank % tp, rank // tp % pp
    if m.Hq % tp or not (m.G % tp == 0 or tp % m.G == 0):
        raise Illegal("heads")
    padded = -(-m.V // 64) * 64
    vocab = even(padded, tp, tp_rank)
    q_rows = even(m.Hq * m.D, tp, tp_rank)
    if tp >= m.G:  # each KV head on tp / G neighbouring ranks
        kv_head = tp_rank // (tp // m.G)
        kv_rows = (kv_head * m.D, (kv_head + 1) * m.D)
    else:
        kv_rows = even(m.G * m.D, tp, tp_rank)
    if m.has_dense_layer:
        even(m.I, tp, tp_rank)
    deal = vllm_experts(m, keys, rank)
    # The models with experts do not leave the vocabulary out of any stage.
    everywhere = m.experts is not None
    held = {}
    if stage == 0 or (m.tied and stage == pp - 1) or everywhere:
        held["model.embed_tokens.weight"] = _padded_rows(
            tensors["model.embed_tokens.weight"], padded, *vocab)
    for layer in _vllm_layers(m, pp, stage):
        prefix = f"model.layers.{layer}."
        hf = {n.removeprefix(prefix): t for n, t in tensors.items()
              if n.startswith(prefix)}
        out = {}
        if m.has_experts(layer):
            out = vllm_moe(m, hf, tp, tp_rank, deal)
            hf = {n: t for n, t in hf.items()
                  if not n.startswith(m.experts.block)}
        else:
            width = even(m.I, tp, tp_rank)
        for name, tensor in hf.items():
            if name.startswith(("self_attn.q_proj", "self_attn.k_proj",
                                "self_attn.v_proj", "mlp.gate_proj",
                                "mlp.up_proj")):
                continue
            if name == "self_attn.o_proj.weight":
                tensor = tensor.columns(*q_rows)
            elif name == "mlp.down_proj.weight":
                tensor = tensor.columns(*width)
            out[name] = tensor
        for kind in ("weight", "bias"):
            if f"self_attn.q_proj.{kind}" in hf:
                out[f"self_attn.qkv_proj.{kind}"] = concat([
                    hf[f"self_attn.q_proj.{kind}"].rows(slice(*q_rows)),
                    hf[f"self_attn.k_proj.{kind}"].rows(slice(*kv_rows)),
                    hf[f"self_attn.v_proj.{kind}"].rows(slice(*kv_rows))])
            if f"mlp.gate_proj.{kind}" in hf:
                out[f"mlp.gate_up_proj.{kind}"] = concat(
                    [hf[f"mlp.{x}_proj.{kind}"].rows(slice(*width))
                     for x in ("gate", "up")])
        held |= {prefix + n: t for n, t in out.items()}
    if stage == pp - 1 or everywhere:
        held["model.norm.weight"] = tensors["model.norm.weight"]
        if not m.tied:
            held["lm_head.weight"] = _padded_rows(tensors["lm_head.weight"],
                                                  padded, *vocab)
    return held
