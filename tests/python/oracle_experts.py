"""What every rank holds of a mixture of experts, in NumPy, from the rules of the
frameworks; the rest of a layer is in oracle.py. `m` is the oracle's Model, `hf`
the tensors of a layer by the ends of their names."""

from typing import NamedTuple

from oracle_values import Illegal, concat, even, stack


class Experts(NamedTuple):
    """The experts of a layer, and how files spell them."""
    count: int
    width: int
    shared_width: int  # of the gated shared expert; 0: there is none
    dense_layers: frozenset  # the layers with an MLP in their place
    block: str
    gate: str
    up: str
    down: str


def experts_of(config):
    family = config["architectures"][0]
    if family == "MixtralForCausalLM":
        return Experts(config["num_local_experts"],
                       config["intermediate_size"], 0, frozenset(),
                       "block_sparse_moe", "w1", "w3", "w2")
    if family not in ("Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM"):
        return None
    step = config.get("decoder_sparse_step", 1)
    dense = frozenset(config.get("mlp_only_layers") or ()) | {
        i for i in range(config["num_hidden_layers"]) if (i + 1) % step}
    shared = (config["shared_expert_intermediate_size"]
              if family == "Qwen2MoeForCausalLM" else 0)
    count = config.get("num_experts") or config["num_local_experts"]
    return Experts(count, config["moe_intermediate_size"], shared,
                   dense, "mlp", "gate_proj", "up_proj", "down_proj")


def gated(prefix, hidden, width, names=("gate_proj", "up_proj", "down_proj")):
    gate, up, down = names
    return {f"{prefix}{gate}.weight": (width, hidden),
            f"{prefix}{up}.weight": (width, hidden),
            f"{prefix}{down}.weight": (hidden, width)}


def expert_shapes(m):
    x = m.experts
    shapes = {f"{x.block}.gate.weight": (x.count, m.H)}
    for e in range(x.count):
        shapes |= gated(f"{x.block}.experts.{e}.", m.H, x.width,
                        (x.gate, x.up, x.down))
    if x.shared_width:
        shapes |= gated("mlp.shared_expert.", m.H, x.shared_width)
        shapes["mlp.shared_expert_gate.weight"] = (1, m.H)
    return shapes


def _gate_up(hf, prefix, names, begin, end):
    return concat([hf[f"{prefix}{name}.weight"].rows(slice(begin, end))
                   for name in names])


def _stacked_experts(m, hf, chosen, begin, end):
    """Rows [gate; up] and columns of down, [begin, end) of the width of each
    of the chosen experts: two stacks."""
    x = m.experts
    at = f"{x.block}.experts."
    dtype = hf[f"{at}0.{x.up}.weight"].dtype
    w13 = [_gate_up(hf, f"{at}{e}.", (x.gate, x.up), begin, end)
           for e in chosen]
    w2 = [hf[f"{at}{e}.{x.down}.weight"].columns(begin, end) for e in chosen]
    return (stack(w13, (2 * (end - begin), m.H), dtype),
            stack(w2, (m.H, end - begin), dtype))


def in_memory(m, tensors):
    """The names and fused experts of transformers 5."""
    held = {}
    for name, tensor in tensors.items():
        if f".{m.experts.block}." not in name:
            held[name] = tensor
        elif ".experts." not in name:
            held[name.replace(m.experts.block, "mlp")] = tensor
    for layer in filter(m.has_experts, range(m.L)):
        prefix = f"model.layers.{layer}."
        hf = {n.removeprefix(prefix): t for n, t in tensors.items()
              if n.startswith(prefix)}
        gate_up, down = _stacked_experts(m, hf, range(m.experts.count), 0,
                                         m.experts.width)
        held[prefix + "mlp.experts.gate_up_proj"] = gate_up
        held[prefix + "mlp.experts.down_proj"] = down
    return held


def megatron_experts(m, keys, rank):
    """(the rank's experts, the cut of their width). Experts have a grid of
    their own over the ranks of a stage: etp fastest, then ep, then replicas."""
    tp, ep = keys.get("tp", 1), keys.get("ep", 1)
    etp = keys.get("etp", tp)
    in_stage = tp * keys.get("cp", 1) * keys.get("dp", 1)
    if in_stage % (etp * ep):
        raise Illegal("the grid of the experts")
    if m.experts is None:
        if ep > 1:
            raise Illegal("no experts")
        return None
    at = rank % in_stage
    chosen = range(*even(m.experts.count, ep, at // etp % ep))
    if m.experts.shared_width % tp:
        raise Illegal("the shared expert")
    return chosen, even(m.experts.width, etp, at % etp)


def megatron_moe(m, hf, keys, tp_rank, deal):
    x = m.experts
    chosen, width = deal
    out = {"mlp.router.weight": hf[f"{x.block}.gate.weight"]}
    for j, e in enumerate(chosen):
        at = f"{x.block}.experts.{e}."
        fc1 = _gate_up(hf, at, (x.gate, x.up), *width)
        fc2 = hf[f"{at}{x.down}.weight"].columns(*width)
        if keys.get("experts", "grouped") == "grouped":
            out |= {f"mlp.experts.linear_fc1.weight{j}": fc1,
                    f"mlp.experts.linear_fc2.weight{j}": fc2}
        else:
            at = f"mlp.experts.local_experts.{j}.linear_"
            out |= {f"{at}fc1.weight": fc1, f"{at}fc2.weight": fc2}
    if x.shared_width:  # over the tensor parallelism of the dense layers
        rows = even(x.shared_width, keys.get("tp", 1), tp_rank)
        at = "mlp.shared_expert."
        out |= {
            "mlp.shared_experts.gate_weight":
                hf["mlp.shared_expert_gate.weight"],
            "mlp.shared_experts.linear_fc1.weight":
                _gate_up(hf, at, ("gate_proj", "up_proj"), *rows),
            "mlp.shared_experts.linear_fc2.weight":
                hf[at + "down_proj.weight"].columns(*rows)}
    return out


def vllm_experts(m, keys, rank):
    """(the rank's experts, the cut of their width). Without ep every rank of
    tp x dp has a cut of every expert; with ep it has whole ones, the first
    ranks one more than the last."""
    tp, pp = keys.get("tp", 1), keys.get("pp", 1)
    dp, ep = keys.get("dp", 1), keys.get("ep", 1)
    if ep > 1 and (m.experts is None or ep != tp * dp):
        raise Illegal("ep")
    if m.experts is None:
        return None
    if m.experts.shared_width % tp:
        raise Illegal("the shared expert")
    at = rank // (tp * pp) * tp + rank % tp
    if ep == 1:
        return (range(m.experts.count),
                even(m.experts.width, tp * dp, at))
    owner = [p for p in range(ep) for _ in range(
        m.experts.count // ep + (p < m.experts.count % ep))]
    return ([e for e, p in enumerate(owner) if p == at],
            (0, m.experts.width))


def vllm_moe(m, hf, tp, tp_rank, deal):
    x = m.experts
    w13, w2 = _stacked_experts(m, hf, deal[0], *deal[1])
    out = {f"{x.block}.gate.weight": hf[f"{x.block}.gate.weight"],
           f"{x.block}.experts.routed_experts.w13_weight": w13,
           f"{x.block}.experts.routed_experts.w2_weight": w2}
    if x.shared_width:
        rows = even(x.shared_width, tp, tp_rank)
        at = "mlp.shared_expert."
        out |= {"mlp.shared_expert_gate.weight":
                    hf["mlp.shared_expert_gate.weight"],
                at + "gate_up_proj.weight":
                    _gate_up(hf, at, ("gate_proj", "up_proj"), *rows),
                at + "down_proj.weight":
                    hf[at + "down_proj.weight"].columns(*rows)}
    return out
