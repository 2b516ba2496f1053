"""What every rank of vLLM holds, in NumPy, from the rules of its layers and of
each model's own modules (0.32); `m` is an oracle_models.Model, `hf` the tensors
of a layer by the ends of their names."""

import json
from typing import NamedTuple

import numpy as np

from oracle_models import LATENT
from oracle_values import (Bits, Illegal, concat, even, neg_exp, padded_rows,
                           segments, stack)

# Models that leave the vocabulary and the last norm out of no stage.
_ON_EVERY_STAGE = ("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss",
                   "nemotron_h", "qwen3_next", "gemma2", "gemma3")
# Models that never share the embedding with the head, which stays unset then.
_NEVER_TIED = (*LATENT, "glm4_moe", "gpt_oss", "nemotron_h", "qwen3_next")
# Models that cut no shared expert where tokens are cut over the ranks.
_SEQUENCE_PARALLEL = (*LATENT, "qwen3_next", "nemotron_h")


class Place(NamedTuple):
    """A rank in the grid of an engine."""
    tp: int
    tp_rank: int
    pp: int
    stage: int
    shared_tp: int  # of shared experts
    shared_rank: int
    experts: tuple  # of each layer with experts: the numbers of those held
    expert_tp: int  # how many ranks share an expert
    expert_rank: int


def vllm(m, tensors, keys, rank):
    at = _place(m, keys, rank)
    _check(m, at, keys)
    padded = -(-m.V // 64) * 64
    vocabulary = even(padded, at.tp, at.tp_rank)
    everywhere = m.family in _ON_EVERY_STAGE
    first, last = at.stage == 0, at.stage == at.pp - 1
    held = {}
    if first or (m.tied and last) or everywhere:
        name = ("model.embedding.weight" if m.family == "gpt_oss" else
                "model.embed_tokens.weight")
        held[name] = padded_rows(tensors[m.embedding], padded, *vocabulary)
    for layer in _layers(m, at.pp, at.stage):
        prefix = f"{m.at}layers.{layer}."
        hf = {n.removeprefix(prefix): t for n, t in tensors.items()
              if n.startswith(prefix)}
        held |= {f"model.layers.{layer}.{n}": t
                 for n, t in _layer(m, hf, at, layer).items()}
    if last or (everywhere and m.family != "qwen3_next"):
        name = "norm_f" if m.family == "nemotron_h" else "norm"
        held[f"model.{name}.weight"] = tensors[m.last_norm]
    if (last or everywhere) and not m.tied:
        held["lm_head.weight"] = padded_rows(tensors["lm_head.weight"],
                                             padded, *vocabulary)
    return held


def _place(m, keys, rank):
    tp, pp, dp = (keys.get(name, 1) for name in ("tp", "pp", "dp"))
    ep = keys.get("ep", 1)
    tp_rank, stage = rank % tp, rank // tp % pp
    if ep > 1 and (m.experts is None or ep != tp * dp):
        raise Illegal("ep")
    at = rank // (tp * pp) * tp + tp_rank  # among all that share the experts
    is_sequence_parallel = (ep > 1 and tp > 1 and dp > 1 and
                            m.family in _SEQUENCE_PARALLEL)
    return Place(
        tp, tp_rank, pp, stage,
        *((1, 0) if is_sequence_parallel else (tp, tp_rank)),
        experts=_dealt(m, keys, ep, at if ep > 1 else 0),
        expert_tp=1 if ep > 1 else tp * dp,
        expert_rank=0 if ep > 1 else at)


def _dealt(m, keys, ep, ep_rank):
    """For each layer with experts, the logical numbers of the rank's."""
    if m.experts is None:
        if {"eplb", "redundant", "placement"} & keys.keys():
            raise Illegal("no experts")
        return ()
    table = physical_experts(m, keys, ep)
    if keys.get("placement") == "round_robin" and m.groups > 1 and not (
            {"eplb", "redundant"} & keys.keys()):
        return tuple(of_layer[ep_rank::ep] for of_layer in table)
    owners = [_owners(len(of_layer), ep) for of_layer in table]
    return tuple([e for e, p in zip(of_layer, owner, strict=True)
                  if p == ep_rank]
                 for of_layer, owner in zip(table, owners, strict=True))


def physical_experts(m, keys, ep):
    """For each layer with experts, which logical expert each physical one is
    a copy of."""
    count, redundant = m.experts.count, keys.get("redundant", 0)
    sparse = m.mlps.count("experts")
    if ep == 1 and (redundant or "eplb" in keys):
        raise Illegal("nothing to balance")
    if "eplb" not in keys:
        return [[x % count for x in range(count + redundant)]] * sparse
    with open(keys["eplb"], encoding="utf-8") as file:
        table = json.load(file)["physical_to_logical"]
    if not isinstance(table[0], list):
        table = [table] * sparse
    if len(table) != sparse:
        raise Illegal("another number of layers")
    for of_layer in table:
        if set(of_layer) != set(range(count)):
            raise Illegal("an expert that nobody has")
    return table


def _owners(count, ep):
    """Whose each physical expert is: in runs, the first ranks one more."""
    return [p for p in range(ep) for _ in range(count // ep +
                                                (p < count % ep))]


def _check(m, at, keys):
    if m.Hq % at.tp:
        raise Illegal("heads")
    if "gqa" in m.mixers and not (m.G % at.tp == 0 or at.tp % m.G == 0):
        raise Illegal("kv heads")
    if m.family == "gpt_oss":
        world = at.tp * at.pp * keys.get("dp", 1)
        if (m.G % at.tp or m.experts.width % world
                or m.experts.count % keys.get("ep", 1)
                or {"eplb", "redundant", "placement"} & keys.keys()):
            raise Illegal("heads or experts of gpt_oss")
    if m.tied and m.family in _NEVER_TIED:
        raise Illegal("a head that nothing fills")
    if m.family == "qwen2_moe" and (not m.qkv_bias or
                                    {"eplb", "redundant"} & keys.keys()):
        raise Illegal("biases that nothing fills, or copies of experts")
    if m.has_dense_layer:
        even(m.I, at.tp, 0)
    if m.experts:
        even(m.experts.width, at.expert_tp, 0)
        even(m.experts.shared_width, at.shared_tp, 0)
    if m.delta and m.delta.key_heads % at.tp:
        raise Illegal("key heads")
    if m.mamba and (m.mamba.heads % at.tp or (m.mamba.groups % at.tp and
                                              m.mamba.groups != 1)):
        raise Illegal("mamba heads or groups")


def _layers(m, pp, stage):
    counts = [m.L // pp] * pp
    # The remainder goes to the stages before the last, from the back.
    for j in range(2, m.L % pp + 2):
        counts[pp - j] += 1
    begin = sum(counts[:stage])
    return range(begin, begin + counts[stage])


def _layer(m, hf, at, layer):
    return (norms_of(m, hf) | mixer_of(m, hf, at, layer) |
            mlp_of(m, hf, at, layer))


def norms_of(m, hf):
    if m.family == "nemotron_h":
        return {"norm.weight": hf["norm.weight"]}
    return {n: t for n, t in hf.items() if n.endswith("layernorm.weight") and
            n.count(".") == 1}


def mixer_of(m, hf, at, layer):
    mixer = m.mixers[layer]
    return {"gqa": _gqa, "latent": _latent, "delta": _delta, "mamba": _mamba,
            "": lambda *of: {}}[mixer](m, hf, at)


def mlp_of(m, hf, at, layer):
    mlp = m.mlps[layer]
    if mlp == "experts":
        sparse = m.mlps[:layer].count("experts")
        return _experts(m, hf, at, at.experts[sparse])
    if mlp == "plain":
        return _plain_mlp(hf, "mixer.", m.I, at.tp, at.tp_rank)
    if mlp == "dense":
        return _gated_mlp(m, hf, "mlp.", m.I, at.tp, at.tp_rank)
    return {}


# ---- mixers ------------------------------------------------------------------


def _gqa(m, hf, at):
    source = "mixer." if m.family == "nemotron_h" else "self_attn."
    to = "attn." if m.family == "gpt_oss" else source
    q_head = 2 * m.D if m.family == "qwen3_next" else m.D
    q_rows = even(m.Hq * q_head, at.tp, at.tp_rank)
    if at.tp >= m.G:  # each KV head on tp / G neighbouring ranks
        head = at.tp_rank // (at.tp // m.G)
        kv_rows = (head * m.D, (head + 1) * m.D)
    else:
        kv_rows = even(m.G * m.D, at.tp, at.tp_rank)
    out = {}
    for kind in ("weight", "bias"):
        if m.family == "phi3":
            if kind == "bias":
                continue
            fused = hf[source + "qkv_proj.weight"]
            q, k, v = segments(fused, (m.Hq * m.D, m.G * m.D, m.G * m.D))
        elif f"{source}q_proj.{kind}" in hf:
            q, k, v = (hf[f"{source}{x}_proj.{kind}"] for x in "qkv")
        else:
            continue
        out[f"{to}qkv_proj.{kind}"] = concat([
            q.rows(slice(*q_rows)), k.rows(slice(*kv_rows)),
            v.rows(slice(*kv_rows))])
    out[to + "o_proj.weight"] = hf[source + "o_proj.weight"].columns(
        *even(m.Hq * m.D, at.tp, at.tp_rank))
    for whole in ("o_proj.bias", "q_norm.weight", "k_norm.weight"):
        if source + whole in hf:
            out[to + whole] = hf[source + whole]
    if m.family == "gpt_oss":
        out["attn.sinks"] = hf["self_attn.sinks"].rows(
            slice(*even(m.Hq, at.tp, at.tp_rank)))
    return out


def _latent(m, hf, at):
    x, here = m.latent, "self_attn."

    def heads(name, rows):
        return hf[here + name].rows(
            slice(*even(m.Hq * rows, at.tp, at.tp_rank)))

    out = {here + n: hf[here + n] for n in
           ("q_a_layernorm.weight", "kv_a_layernorm.weight")
           if here + n in hf}
    if x.q_rank:
        out |= {here + "fused_qkv_a_proj.weight": concat(
                    [hf[here + "q_a_proj.weight"],
                     hf[here + "kv_a_proj_with_mqa.weight"]]),
                here + "q_b_proj.weight":
                    heads("q_b_proj.weight", x.nope + x.rope)}
    else:
        out |= {here + "kv_a_proj_with_mqa.weight":
                    hf[here + "kv_a_proj_with_mqa.weight"],
                here + "q_proj.weight":
                    heads("q_proj.weight", x.nope + x.rope)}
    out |= {here + "kv_b_proj.weight":
                heads("kv_b_proj.weight", x.nope + x.value),
            here + "o_proj.weight": hf[here + "o_proj.weight"].columns(
                *even(m.Hq * x.value, at.tp, at.tp_rank))}
    here += "indexer."
    if here + "wk.weight" in hf:
        out |= {here + "wq_b.weight": hf[here + "wq_b.weight"],
                here + "wk_weights_proj.weight": concat(
                    [hf[here + "wk.weight"], hf[here + "weights_proj.weight"]])}
        out |= {f"{here}k_norm.{kind}": hf[f"{here}k_norm.{kind}"].pinned("F32")
                for kind in ("weight", "bias")}
    return out


def _delta(m, hf, at):
    x, here = m.delta, "linear_attn."

    def rows(name, count):
        return hf[here + name].rows(slice(*even(count, at.tp, at.tp_rank)))

    keys, values = x.keys, x.values
    return {
        here + "in_proj_qkvz.weight":
            rows("in_proj_qkvz.weight", 2 * keys + 2 * values),
        here + "in_proj_ba.weight": rows("in_proj_ba.weight",
                                         2 * x.value_heads),
        here + "conv1d.weight": concat([
            part.rows(slice(*even(len(part.bits), at.tp, at.tp_rank)))
            for part in segments(hf[here + "conv1d.weight"],
                                 (keys, keys, values))]),
        here + "dt_bias": rows("dt_bias", x.value_heads),
        here + "A_log": rows("A_log", x.value_heads).pinned("F32"),
        here + "norm.weight": hf[here + "norm.weight"],
        here + "out_proj.weight": hf[here + "out_proj.weight"].columns(
            *even(values, at.tp, at.tp_rank))}


def _mamba(m, hf, at):
    x, here = m.mamba, "mixer."
    # B and C, which lie beside one another, of all groups of heads.
    cut, state = (x.inner, True), [(x.shared_state, x.groups % at.tp == 0)] * 2

    def parts(name, segment_list):
        """The rank's rows of each segment; a group that all heads share is
        whole on every rank."""
        sizes = [size for size, _ in segment_list]
        return concat([
            part.rows(slice(*even(size, at.tp, at.tp_rank)))
            if is_cut else part
            for part, (size, is_cut) in zip(segments(hf[here + name], sizes),
                                            segment_list, strict=True)])

    def heads(name):
        return hf[here + name].rows(
            slice(*even(len(hf[here + name].bits), at.tp, at.tp_rank)))

    out = {
        here + "out_proj.weight": hf[here + "out_proj.weight"].columns(
            *even(x.inner, at.tp, at.tp_rank)),
        here + "A": neg_exp(heads("A_log")), here + "D": heads("D"),
        here + "dt_bias": heads("dt_bias"),
        here + "norm.weight": heads("norm.weight")}
    if here + "out_proj.bias" in hf:
        out[here + "out_proj.bias"] = hf[here + "out_proj.bias"]
    for kind in ("weight", "bias"):
        if f"{here}in_proj.{kind}" in hf:
            out[f"{here}in_proj.{kind}"] = parts(
                f"in_proj.{kind}", [cut, cut, *state, (x.heads, True)])
        if f"{here}conv1d.{kind}" in hf:
            out[f"{here}conv1d.{kind}"] = parts(f"conv1d.{kind}",
                                                [cut, *state])
    return out


# ---- MLPs and experts --------------------------------------------------------


def _gated_mlp(m, hf, here, width, tp, tp_rank):
    rows = even(width, tp, tp_rank)
    out = {here + "down_proj.weight":
               hf[here + "down_proj.weight"].columns(*rows)}
    for kind in ("weight", "bias"):
        if f"{here}gate_up_proj.{kind}" in hf:  # fused in the file
            halves = segments(hf[f"{here}gate_up_proj.{kind}"],
                              (width, width))
        elif f"{here}gate_proj.{kind}" in hf:
            halves = [hf[f"{here}{x}_proj.{kind}"] for x in ("gate", "up")]
        else:
            continue
        out[f"{here}gate_up_proj.{kind}"] = concat(
            [half.rows(slice(*rows)) for half in halves])
    if here + "down_proj.bias" in hf:
        out[here + "down_proj.bias"] = hf[here + "down_proj.bias"]
    return out


def _plain_mlp(hf, here, width, tp, tp_rank):
    rows = even(width, tp, tp_rank)
    return {here + "up_proj.weight":
                hf[here + "up_proj.weight"].rows(slice(*rows)),
            here + "down_proj.weight":
                hf[here + "down_proj.weight"].columns(*rows)}


def _experts(m, hf, at, chosen):
    x, here = m.experts, f"{m.experts.block}."
    if x.is_packed:
        return _packed_experts(m, hf, at, chosen)
    routed = here + "experts.routed_experts."
    begin, end = even(x.width, at.expert_tp, at.expert_rank)
    size = x.latent or m.H
    first, second = [], []
    for e in chosen:
        of = f"{here}experts.{e}."
        first.append(concat([
            hf[f"{of}{name}.weight"].rows(slice(begin, end))
            for name in (x.gate, x.up) if name]))
        second.append(hf[f"{of}{x.down}.weight"].columns(begin, end))
    rows = (end - begin) * (2 if x.gate else 1)
    dtype = hf[f"{here}experts.0.{x.up}.weight"].dtype
    gate = hf[here + "gate.weight"]
    out = {
        here + "gate.weight":
            gate.pinned("F32") if m.family == "glm4_moe" else gate,
        routed + "w13_weight": stack(first, (rows, size), dtype),
        routed + "w2_weight": stack(second, (size, end - begin), dtype)}
    if x.has_correction:
        name = here + "gate.e_score_correction_bias"
        out[name] = hf[name].pinned("F32")
    if x.latent:
        out |= {f"{here}{n}.weight": hf[f"{here}{n}.weight"]
                for n in ("fc1_latent_proj", "fc2_latent_proj")}
    if x.shared:
        cut = (x.shared_width, at.shared_tp, at.shared_rank)
        out |= (_gated_mlp(m, hf, f"{here}{x.shared}.", *cut) if x.gate else
                _plain_mlp(hf, f"{here}{x.shared}.", *cut))
        if x.has_shared_gate:
            name = f"{here}{x.shared}_gate.weight"
            out[name] = hf[name]
    return out


def _packed_experts(m, hf, at, chosen):
    """GPT-OSS: gate and up stay interleaved, tensors are transposed, and the
    second bias is on one of the ranks that share an expert."""
    x, here = m.experts, "mlp.experts.routed_experts."
    begin, end = even(x.width, at.expert_tp, at.expert_rank)

    def of(name):
        return hf["mlp.experts." + name].rows(np.array(chosen, np.int64))

    second_bias = of("down_proj_bias")
    if at.expert_rank:
        second_bias = Bits(second_bias.dtype,
                           np.zeros_like(second_bias.bits))
    return {
        "mlp.router.weight": hf["mlp.router.weight"],
        "mlp.router.bias": hf["mlp.router.bias"],
        here + "w13_weight": of("gate_up_proj").transposed().columns(
            2 * begin, 2 * end),
        here + "w13_bias": of("gate_up_proj_bias").columns(2 * begin, 2 * end),
        here + "w2_weight": of("down_proj").columns(begin, end).transposed(),
        here + "w2_bias": second_bias}
