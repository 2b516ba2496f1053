"""What every rank of Megatron-Core holds, in NumPy, from its rules; `m` is an
oracle_models.Model, `hf` the tensors of a layer by the ends of their names."""

from typing import NamedTuple

import numpy as np

from oracle_models import GEMMA
from oracle_values import (SPEC_DTYPES, Bits, Illegal, concat, even, less_one,
                           padded_rows, segments)

_FAMILIES = ("llama", "qwen2", "qwen3", "mixtral", "qwen2_moe", "qwen3_moe",
             "deepseek_v2", "deepseek_v3", "glm4_moe", "glm_moe_dsa",
             "gpt_oss", "nemotron_h", "phi3", "qwen3_next", *GEMMA)


class Place(NamedTuple):
    """A rank in the two grids of a stage: of dense layers and of experts."""
    tp: int
    tp_rank: int
    experts: range
    etp: int
    etp_rank: int
    is_local: bool  # core's own layers, not Transformer Engine's
    is_grouped: bool
    dtype: str | None  # of all that the rank holds


def megatron(m, tensors, keys, rank):
    tp, pp, vpp = (keys.get(name, 1) for name in ("tp", "pp", "vpp"))
    in_stage = tp * keys.get("cp", 1) * keys.get("dp", 1)
    at = _place(m, keys, rank, in_stage)
    _check(m, at)
    stage = rank // in_stage
    divisor = keys.get("vocab_divisor")
    padded = (-(-m.V // (divisor * tp)) * divisor * tp) if divisor else m.V
    vocabulary = even(padded, tp, at.tp_rank)
    held = {}
    for chunk, layers in enumerate(_chunks(m, keys, stage)):
        first = stage == 0 and chunk == 0
        last = stage == pp - 1 and chunk == vpp - 1
        of_chunk = {}
        if first:
            of_chunk["embedding.word_embeddings.weight"] = padded_rows(
                tensors[m.embedding], padded, *vocabulary)
        for here, layer in enumerate(layers):
            prefix = f"{m.at}layers.{layer}."
            hf = {n.removeprefix(prefix): t for n, t in tensors.items()
                  if n.startswith(prefix)}
            of_chunk |= {f"decoder.layers.{here}.{n}": t
                         for n, t in _layer(m, hf, at, layer).items()}
        if last:
            norm = "norm" if m.family == "nemotron_h" else "layernorm"
            of_chunk[f"decoder.final_{norm}.weight"] = tensors[m.last_norm]
            if not (m.tied and first):
                head = m.embedding if m.tied else "lm_head.weight"
                of_chunk["output_layer.weight"] = padded_rows(
                    tensors[head], padded, *vocabulary)
            of_chunk |= _predicting(m, tensors, at)
            if m.mtp and any(".eh_proj." in name for name in tensors):
                # What predicts further tokens embeds them too.
                of_chunk["embedding.word_embeddings.weight"] = padded_rows(
                    tensors[m.embedding], padded, *vocabulary)
        prefix = f"model{chunk}." if vpp > 1 else ""
        held |= {prefix + n: t for n, t in of_chunk.items()}
    return held


def _place(m, keys, rank, in_stage):
    """Experts have a grid of their own over the ranks of a stage: etp
    fastest, then ep, then replicas."""
    tp, ep = keys.get("tp", 1), keys.get("ep", 1)
    etp = keys.get("etp", tp)
    if in_stage % (etp * ep):
        raise Illegal("the grid of the experts")
    if m.experts is None and ep > 1:
        raise Illegal("no experts")
    at = rank % in_stage
    experts = range(*even(m.experts.count, ep, at // etp % ep)
                    ) if m.experts else range(0)
    return Place(tp, rank % tp, experts, etp, at % etp,
                 keys.get("impl", "te") == "local",
                 keys.get("experts", "grouped") == "grouped",
                 SPEC_DTYPES.get(keys.get("dtype")))


def _check(m, at):
    if m.family not in _FAMILIES:
        raise Illegal(f"nobody says how Megatron stores {m.family}")
    if m.Hq % at.tp or "gqa" in m.mixers and not (
            m.G % at.tp == 0 or at.tp % m.G == 0):
        raise Illegal("heads")
    if m.has_dense_layer:
        even(m.I, at.tp, 0)
    if m.experts:
        even(m.experts.width, at.etp, 0)
        even(m.experts.shared_width, at.tp, 0)
    if m.family == "gpt_oss" and (at.etp > 1 or at.is_local):
        # Each of etp ranks would add the bias; only Bridge, which builds
        # Transformer Engine's layers, says what lies where.
        raise Illegal("gpt_oss")
    if m.mamba and (m.mamba.groups % at.tp or m.mamba.heads % at.tp):
        raise Illegal("mamba heads or groups")
    if m.delta and (m.delta.key_heads % at.tp or at.is_local):
        raise Illegal("key heads")
    if m.family in GEMMA and at.is_local:
        raise Illegal("norms that core's own layers do not have")
    if m.family == "nemotron_h" and (at.is_local or not at.is_grouped):
        raise Illegal("a hybrid model of another kind")


def _chunks(m, keys, stage):
    """The layers of each of the stage's chunks. Chunk 0 of every stage is
    dealt its layers, then chunk 1 of every stage, and so on; embedding and
    loss may be dealt out too, in the place of a layer."""
    pp, vpp = keys.get("pp", 1), keys.get("vpp", 1)
    first, last = keys.get("first"), keys.get("last")
    dealt = list(range(m.L))
    if keys.get("embedding_in_split"):
        dealt.insert(0, None)
    if keys.get("loss_in_split"):
        dealt.append(None)
    if vpp > 1 and pp == 1:
        raise Illegal("virtual stages of no pipeline")
    if first is None and last is None:
        if len(dealt) % pp:
            raise Illegal("stages")
        sizes = [len(dealt) // pp] * pp
    else:
        middle = pp - (first is not None) - (last is not None)
        rest = m.L - (first or 0) - (last or 0)
        if pp == 1 or rest < 0 or (middle == 0) != (rest == 0) or (
                middle and rest % middle) or len(dealt) > m.L:
            raise Illegal("layers do not come out")
        sizes = ([first] if first is not None else []) + (
            [rest // max(middle, 1)] * middle) + (
                [last] if last is not None else [])
    if any(size % vpp for size in sizes):
        raise Illegal("virtual stages")
    chunks, begin = [], 0
    for _ in range(vpp):
        for owner, size in enumerate(sizes):
            if owner == stage:
                chunks.append([layer for layer in
                               dealt[begin:begin + size // vpp]
                               if layer is not None])
            begin += size // vpp
    return chunks


def _predicting(m, tensors, at):
    """The layers behind the last one, which have experts."""
    out = {}
    for j in range(m.mtp):
        prefix = f"{m.at}layers.{m.L + j}."
        hf = {n.removeprefix(prefix): t for n, t in tensors.items()
              if n.startswith(prefix)}
        if not hf:
            continue
        to = f"mtp.layers.{j}."
        rows = even(m.H, at.tp, at.tp_rank)
        out |= {to + "enorm.weight": hf["enorm.weight"],
                to + "hnorm.weight": hf["hnorm.weight"],
                to + "eh_proj.weight":
                    hf["eh_proj.weight"].rows(slice(*rows)),
                to + "final_layernorm.weight": hf["shared_head.norm.weight"]}
        like = m._replace(mixers=(m.mixers[0],), mlps=("experts",))
        out |= {f"{to}mtp_model_layer.{n}": t
                for n, t in _layer(like, hf, at, 0).items()}
    return out


def _layer(m, hf, at, layer):
    mixer, mlp = m.mixers[layer], m.mlps[layer]
    if m.family == "nemotron_h":
        (norm,) = [to for is_it, to in (
            (mixer == "mamba", "mixer.in_proj.layer_norm_weight"),
            (mixer == "gqa", "self_attention.linear_qkv.layer_norm_weight"),
            (mlp == "plain", "mlp.linear_fc1.layer_norm_weight"),
            (mlp == "experts", "pre_mlp_layernorm.weight")) if is_it]
        out = {norm: hf["norm.weight"]}
    else:
        linear = "in_proj" if mixer == "delta" else "linear_qkv"
        before = ("input_layernorm.weight" if at.is_local or mixer == "latent"
                  else f"self_attention.{linear}.layer_norm_weight")
        between = ("pre_mlp_layernorm.weight"
                   if at.is_local or mlp == "experts" else
                   "mlp.linear_fc1.layer_norm_weight")
        out = {before: hf["input_layernorm.weight"],
               between: hf["post_attention_layernorm.weight"]}
    if m.family in GEMMA:  # a norm before and after each half of a layer
        out |= {between: hf["pre_feedforward_layernorm.weight"],
                "self_attention.linear_proj.post_layernorm.weight":
                    hf["post_attention_layernorm.weight"],
                "mlp.linear_fc2.post_layernorm.weight":
                    hf["post_feedforward_layernorm.weight"]}
    if mixer:
        out |= {"gqa": _gqa, "latent": _latent, "delta": _delta,
                "mamba": _mamba}[mixer](m, hf, at)
    if mlp == "experts":
        out |= _experts(m, hf, at)
    elif mlp == "plain":
        out |= _plain_mlp("mlp.", hf, "mixer.", m.I, at.tp, at.tp_rank)
    elif mlp == "dense":
        out |= _gated_mlp("mlp.", hf, "mlp.", m.I, at.tp, at.tp_rank)
    return out


# ---- mixers ------------------------------------------------------------------


def _gated_by_groups(m, q, k, v):
    """Per query group its q heads, then their gates, then k, then v; in the
    file each head's gate is behind it."""
    n, rows = m.Hq // m.G, []
    for group in range(m.G):
        heads = range(group * n, (group + 1) * n)
        for half in range(2):
            rows += [q.rows(slice((2 * head + half) * m.D,
                                  (2 * head + half + 1) * m.D))
                     for head in heads]
        rows += [part.rows(slice(group * m.D, (group + 1) * m.D))
                 for part in (k, v)]
    return concat(rows)


def _by_groups(m, q, k, v):
    """Per query group its q heads, then k, then v."""
    if m.family == "qwen3_next":
        return _gated_by_groups(m, q, k, v)
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


def _gqa(m, hf, at):
    here = "mixer." if m.family == "nemotron_h" else "self_attn."
    out = {"self_attention.linear_proj.weight":
               hf[here + "o_proj.weight"].columns(
                   *even(m.Hq * m.D, at.tp, at.tp_rank))}
    heads = (2 if m.family == "qwen3_next" else 1) * m.Hq
    rows = even((heads + 2 * m.G) * m.D, at.tp, at.tp_rank)
    if m.family == "phi3":
        out["self_attention.linear_qkv.weight"] = _by_groups(m, *segments(
            hf[here + "qkv_proj.weight"],
            (m.Hq * m.D, m.G * m.D, m.G * m.D))).rows(slice(*rows))
    for kind in ("weight", "bias"):
        if f"{here}q_proj.{kind}" in hf:
            out[f"self_attention.linear_qkv.{kind}"] = _by_groups(
                m, *(hf[f"{here}{x}_proj.{kind}"] for x in "qkv")
            ).rows(slice(*rows))
    for to, name in (("linear_proj.bias", "o_proj.bias"),
                     ("q_layernorm.weight", "q_norm.weight"),
                     ("k_layernorm.weight", "k_norm.weight")):
        if here + name in hf:
            out["self_attention." + to] = hf[here + name]
    if m.family == "gpt_oss":
        out["self_attention.core_attention.softmax_offset"] = hf[
            "self_attn.sinks"].rows(slice(*even(m.Hq, at.tp, at.tp_rank)))
    return out


def _latent(m, hf, at):
    x, here, to = m.latent, "self_attn.", "self_attention."

    def heads(name, rows):
        return hf[here + name].rows(
            slice(*even(m.Hq * rows, at.tp, at.tp_rank)))

    def down(name):
        """Whole on every rank, but cut in core's own layers."""
        tensor = hf[here + name]
        return tensor.rows(slice(*even(len(tensor.bits), at.tp, at.tp_rank))
                           ) if at.is_local else tensor

    def norm(of):
        return (f"{to}{of}_layernorm.weight" if at.is_local else
                f"{to}linear_{of}_up_proj.layer_norm_weight")

    out = {to + "linear_kv_down_proj.weight":
               down("kv_a_proj_with_mqa.weight"),
           to + "linear_kv_up_proj.weight":
               heads("kv_b_proj.weight", x.nope + x.value),
           norm("kv"): hf[here + "kv_a_layernorm.weight"],
           to + "linear_proj.weight": hf[here + "o_proj.weight"].columns(
               *even(m.Hq * x.value, at.tp, at.tp_rank))}
    if x.q_rank:
        out |= {to + "linear_q_down_proj.weight": down("q_a_proj.weight"),
                to + "linear_q_up_proj.weight":
                    heads("q_b_proj.weight", x.nope + x.rope),
                norm("q"): hf[here + "q_a_layernorm.weight"]}
    else:
        out[to + "linear_q_proj.weight"] = heads("q_proj.weight",
                                                 x.nope + x.rope)
    here, to = here + "indexer.", to + "core_attention.indexer."
    if here + "wk.weight" in hf:
        out |= {f"{to}linear_{n}.weight": hf[f"{here}{n}.weight"]
                for n in ("wq_b", "wk", "weights_proj")}
        out |= {f"{to}k_norm.{kind}": hf[f"{here}k_norm.{kind}"]
                for kind in ("weight", "bias")}
    return out


def _delta(m, hf, at):
    """A rank's projection is [queries; keys; values; gates; betas; alphas] of
    its heads; in the files these lie by key heads, in two tensors."""
    x, here, to = m.delta, "linear_attn.", "self_attention."
    each = x.value_heads // x.key_heads
    width = each * x.value_width
    begin, end = even(x.key_heads, at.tp, at.tp_rank)

    def of_heads(name, sizes):
        parts = [[] for _ in sizes]
        for head in range(begin, end):
            block = hf[here + name].rows(slice(head * sum(sizes),
                                               (head + 1) * sum(sizes)))
            for kept, part in zip(parts, segments(block, sizes), strict=True):
                kept.append(part)
        return [concat(kept) for kept in parts]

    def values(name):
        return hf[here + name].rows(
            slice(*even(x.value_heads, at.tp, at.tp_rank)))

    return {
        to + "in_proj.weight": concat(
            of_heads("in_proj_qkvz.weight",
                     (x.key_width, x.key_width, width, width)) +
            of_heads("in_proj_ba.weight", (each, each))),
        to + "conv1d.weight": concat([
            part.rows(slice(*even(len(part.bits), at.tp, at.tp_rank)))
            for part in segments(hf[here + "conv1d.weight"],
                                 (x.keys, x.keys, x.values))]),
        to + "dt_bias": values("dt_bias"), to + "A_log": values("A_log"),
        to + "out_norm.weight": less_one(hf[here + "norm.weight"], at.dtype),
        to + "out_proj.weight": hf[here + "out_proj.weight"].columns(
            *even(x.values, at.tp, at.tp_rank))}


def _mamba(m, hf, at):
    x, here = m.mamba, "mixer."

    def parts(name, sizes):
        return concat([
            part.rows(slice(*even(len(part.bits), at.tp, at.tp_rank)))
            for part in segments(hf[here + name], sizes)])

    state = (x.shared_state, x.shared_state)
    out = {here + "in_proj.weight":
               parts("in_proj.weight", (x.inner, x.inner, *state, x.heads)),
           here + "out_proj.weight": hf[here + "out_proj.weight"].columns(
               *even(x.inner, at.tp, at.tp_rank)),
           here + "norm.weight": parts("norm.weight", (x.inner,))}
    out |= {here + n: parts(n, (x.heads,)) for n in ("A_log", "D", "dt_bias")}
    out[here + "A_log"] = out[here + "A_log"]._replace(is_pinned=True)
    for kind in ("weight", "bias"):
        if f"{here}conv1d.{kind}" in hf:
            out[f"{here}conv1d.{kind}"] = parts(f"conv1d.{kind}",
                                                (x.inner, *state))
    return out


# ---- MLPs and experts --------------------------------------------------------


def _gated_mlp(to, hf, here, width, tp, tp_rank, names=("gate_proj",
                                                        "up_proj",
                                                        "down_proj")):
    """A rank's first matrix is [its rows of gate; its rows of up]."""
    *halves, down = names
    rows = even(width, tp, tp_rank)
    out = {to + "linear_fc2.weight": hf[f"{here}{down}.weight"].columns(*rows)}
    if here + "gate_up_proj.weight" in hf:  # fused in the file
        out[to + "linear_fc1.weight"] = concat(
            [half.rows(slice(*rows)) for half in
             segments(hf[here + "gate_up_proj.weight"], (width, width))])
    for kind in ("weight", "bias"):
        if f"{here}{halves[0]}.{kind}" in hf:
            out[f"{to}linear_fc1.{kind}"] = concat(
                [hf[f"{here}{half}.{kind}"].rows(slice(*rows))
                 for half in halves])
    if f"{here}{down}.bias" in hf:
        out[to + "linear_fc2.bias"] = hf[f"{here}{down}.bias"]
    return out


def _plain_mlp(to, hf, here, width, tp, tp_rank):
    return _gated_mlp(to, hf, here, width, tp, tp_rank,
                      ("up_proj", "down_proj"))


def _experts(m, hf, at):
    x, here = m.experts, f"{m.experts.block}."
    router = "router" if x.is_packed else "gate"
    out = {"mlp.router.weight": hf[f"{here}{router}.weight"]}
    if x.is_packed:
        out["mlp.router.bias"] = hf[here + "router.bias"]
    if x.has_correction:
        out["mlp.router.expert_bias"] = hf[
            here + "gate.e_score_correction_bias"].pinned("F32")
    if x.latent:  # TELinear with parallel_mode="duplicated"
        for name in ("fc1_latent_proj.weight", "fc2_latent_proj.weight"):
            out["mlp." + name] = hf[here + name]
    names = (x.gate, x.up, x.down) if x.gate else (x.up, x.down)
    for j, e in enumerate(at.experts):
        expert = (_packed_expert(hf, e) if x.is_packed else
                  _gated_mlp("", hf, f"{here}experts.{e}.", x.width, at.etp,
                             at.etp_rank, names))
        for name, tensor in expert.items():
            linear, _, kind = name.rpartition(".")
            to = (f"{linear}.{kind}{j}" if at.is_grouped else
                  f"local_experts.{j}.{linear}.{kind}")
            out["mlp.experts." + to] = tensor
    if x.shared:
        mlp = _gated_mlp if x.gate else _plain_mlp
        out |= mlp("mlp.shared_experts.", hf, f"{here}{x.shared}.",
                   x.shared_width, at.tp, at.tp_rank)
        if x.has_shared_gate:
            out["mlp.shared_experts.gate_weight"] = hf[
                f"{here}{x.shared}_gate.weight"]
    return out


def _packed_expert(hf, e):
    """Of GPT-OSS: gate and up lie apart, and matrices are transposed."""
    first = hf["mlp.experts.gate_up_proj"].rows(e).transposed()
    bias = hf["mlp.experts.gate_up_proj_bias"].rows(e)
    apart = np.concatenate([np.arange(0, len(bias.bits), 2),
                            np.arange(1, len(bias.bits), 2)])
    return {"linear_fc1.weight": first.rows(apart),
            "linear_fc1.bias": bias.rows(apart),
            "linear_fc2.weight":
                hf["mlp.experts.down_proj"].rows(e).transposed(),
            "linear_fc2.bias": hf["mlp.experts.down_proj_bias"].rows(e)}
