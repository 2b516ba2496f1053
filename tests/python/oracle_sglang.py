"""What every rank of SGLang holds, in NumPy, from its modules (0.5.23): layers
are cut as vLLM's, attention over the ranks of one data-parallel group of them,
experts over a grid of their own over all ranks of a stage."""

from oracle_models import GEMMA
from oracle_values import Illegal, even, padded_rows
from oracle_vllm import Place, mixer_of, mlp_of, norms_of, physical_experts

_FAMILIES = ("llama", "qwen2", "qwen3", "mixtral", "qwen2_moe", "qwen3_moe",
             "deepseek_v2", "deepseek_v3", "glm4_moe", "glm_moe_dsa", "gpt_oss",
             "nemotron_h", "qwen3_next", "phi3", *GEMMA)
# Where the embedding is cut over all ranks although attention is not.
_WHOLE_EMBEDDING = ("llama", "mixtral", "phi3")
# Models whose head, if it is their own, is on every stage.
_HEAD_ON_EVERY_STAGE = ("llama", "phi3", "mixtral", "qwen2_moe", "qwen3_moe",
                        "glm4_moe", "gpt_oss")


def sglang(m, tensors, keys, rank):
    if m.family not in _FAMILIES:
        raise Illegal(f"nobody says how SGLang stores {m.family}")
    tp, pp, dp, ep = (keys.get(name, 1) for name in ("tp", "pp", "dp", "ep"))
    tp_rank, stage = rank % tp, rank // tp
    if tp % dp or tp % ep or ep > 1 and m.experts is None:
        raise Illegal("the grids of attention and experts")
    attention = _place(tp // dp, tp_rank % (tp // dp))
    mlp = _place(tp, tp_rank)._replace(
        experts=_dealt(m, keys, ep, tp_rank // (tp // ep)),
        expert_tp=tp // ep, expert_rank=tp_rank % (tp // ep))
    _check(m, attention, mlp, keys)
    is_fused = (keys.get("shared_fusion", "on") == "on" and ep == 1 and
                _may_fuse(m))
    first, last = stage == 0, stage == pp - 1
    held = {}
    if first:
        at = mlp if m.family in _WHOLE_EMBEDDING else attention
        held["model.embed_tokens.weight"] = _vocabulary(
            m, tensors[m.embedding], at)
    for layer in _layers(m, pp, stage):
        prefix = f"{m.at}layers.{layer}."
        hf = {n.removeprefix(prefix): t for n, t in tensors.items()
              if n.startswith(prefix)}
        out = norms_of(m, hf) | mixer_of(m, hf, attention, layer)
        out |= _mlp(m, hf, mlp, layer, is_fused)
        held |= {f"model.layers.{layer}.{_renamed(m, n)}": t
                 for n, t in out.items()}
    if last:
        name = "norm_f" if m.family == "nemotron_h" else "norm"
        held[f"model.{name}.weight"] = tensors[m.last_norm]
    if m.tied:
        if last and not first:
            held["lm_head.weight"] = _vocabulary(m, tensors[m.embedding], mlp)
    elif last or m.family in _HEAD_ON_EVERY_STAGE:
        held["lm_head.weight"] = _vocabulary(m, tensors["lm_head.weight"], mlp)
    return held


def _place(tp, tp_rank):
    return Place(tp, tp_rank, 1, 0, tp, tp_rank, (), tp, tp_rank)


def _dealt(m, keys, ep, ep_rank):
    if m.experts is None:
        if {"eplb", "redundant"} & keys.keys():
            raise Illegal("no experts")
        return ()
    dealt = []
    for of_layer in physical_experts(m, keys, ep):
        begin, end = even(len(of_layer), ep, ep_rank)
        dealt.append(of_layer[begin:end])
    return tuple(dealt)


def _check(m, attention, mlp, keys):
    if m.Hq % attention.tp:
        raise Illegal("heads")
    if "gqa" in m.mixers and not (m.G % attention.tp == 0 or
                                  attention.tp % m.G == 0):
        raise Illegal("kv heads")
    if m.has_dense_layer:
        even(m.I, mlp.tp, 0)
    if m.experts:
        even(m.experts.width, mlp.expert_tp, 0)
        even(m.experts.shared_width, mlp.tp, 0)
    if m.family in (*GEMMA, "qwen3_next") and keys.get("pp", 1) > 1:
        raise Illegal("no pipeline of this model")
    if m.family == "nemotron_h" and keys.get("dp", 1) > 1:
        raise Illegal("data-parallel attention")
    if m.mamba and (m.mamba.heads % mlp.tp or (m.mamba.groups % mlp.tp and
                                               m.mamba.groups != 1)):
        raise Illegal("mamba heads or groups")
    if m.family == "gpt_oss" and keys.get("ep", 1) > 1:
        raise Illegal("stacks are loaded whole")
    if m.family == "qwen3_next":
        if m.delta and m.delta.key_heads % attention.tp:
            raise Illegal("key heads")
        if m.tied or m.has_dense_layer or (
                keys.get("shared_fusion", "on") == "on" and
                m.experts.shared_width == m.experts.width):
            raise Illegal("a head, a dense layer or a fused shared expert")


def _layers(m, pp, stage):
    """Those left over go to the last stages, one each."""
    counts = [m.L // pp + (p >= pp - m.L % pp) for p in range(pp)]
    begin = sum(counts[:stage])
    return range(begin, begin + counts[stage])


def _may_fuse(m):
    """A shared expert is one more expert where SGLang has tried it."""
    return m.experts and m.experts.shared_width == m.experts.width and (
        m.family == "glm4_moe" or
        m.family in ("deepseek_v3", "glm_moe_dsa") and m.experts.count == 256)


def _vocabulary(m, table, at):
    unit = 64 if -(-m.V // 64) * 64 % at.tp == 0 else 64 * at.tp
    padded = -(-m.V // unit) * unit
    return padded_rows(table, padded, *even(padded, at.tp, at.tp_rank))


def _packed_experts(m, hf, at):
    """GPT-OSS: as the file has them, gates and ups in alternate columns."""
    def held(name):
        return hf["mlp.experts." + name]

    lo, hi = even(2 * m.experts.width, at.expert_tp, at.expert_rank)
    rows = even(m.experts.width, at.expert_tp, at.expert_rank)
    up, down, up_bias, down_bias = (held(n) for n in (
        "gate_up_proj", "down_proj", "gate_up_proj_bias", "down_proj_bias"))
    last = down_bias.pinned("F32")
    if at.expert_rank:  # it is added once
        last = last._replace(bits=last.bits * 0)
    return {
        "mlp.router.weight": hf["mlp.router.weight"],
        "mlp.router.bias": hf["mlp.router.bias"],
        "mlp.experts.w13_weight": up._replace(bits=up.bits[:, :, lo:hi]),
        "mlp.experts.w2_weight": down._replace(
            bits=down.bits[:, rows[0]:rows[1]]),
        "mlp.experts.w13_weight_bias": up_bias._replace(
            bits=up_bias.bits[:, lo:hi]).pinned("F32"),
        "mlp.experts.w2_weight_bias": last}


def _mlp(m, hf, at, layer, is_fused):
    if m.family == "gpt_oss":
        return _packed_experts(m, hf, at)
    if not (is_fused and m.has_experts(layer)):
        return mlp_of(m, hf, at, layer)
    # The shared expert is one more, behind the routed ones.
    x, hf = m.experts, dict(hf)
    for kind in (x.gate, x.up, x.down):
        hf[f"{x.block}.experts.{x.count}.{kind}.weight"] = hf[
            f"{x.block}.{x.shared}.{kind}.weight"]
    sparse = m.mlps[:layer].count("experts")
    chosen = [*at.experts[sparse], x.count]
    experts = list(at.experts)
    experts[sparse] = chosen
    fused = m._replace(experts=x._replace(shared="", shared_width=0))
    return mlp_of(fused, hf, at._replace(experts=tuple(experts)), layer)


def _renamed(m, name):
    if m.family == "gpt_oss" and name.startswith("attn."):
        return "self_" + name
    if m.family == "qwen3_next":
        return name.replace("self_attn.", "").replace(
            ".experts.routed_experts.", ".experts.")
    return name.replace(".experts.routed_experts.", ".experts.").replace(
        ".fused_qkv_a_proj.", ".fused_qkv_a_proj_with_mqa.")
