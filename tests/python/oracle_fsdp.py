"""What every rank of FSDP2 holds, in NumPy: transformers' modules in memory,
cut by tensor parallelism first and then, along dimension 0, as torch.chunk
does."""

import re

import numpy as np

from oracle_values import Bits, Illegal, chunk, concat, even, stack

# How the modules of transformers are parallelised (base_model_tp_plan), with
# embedding and head cut by rows.
_ROWS = ("q_proj.", "k_proj.", "v_proj.", "qkv_proj.", "gate_proj.", "up_proj.",
         "gate_up_proj.", ".w1.", ".w3.", "embed_tokens.", "embeddings.",
         "lm_head.", "q_b_proj.", "kv_b_proj.")
_COLUMNS = ("o_proj.weight", "down_proj.weight", ".w2.weight")


def fsdp(m, tensors, keys, rank):
    shards, tp, ep = (keys.get(name, 1) for name in ("shard", "tp", "ep"))
    is_memory = keys.get("names", "memory") == "memory"
    if ep > 1 and (not is_memory or m.experts is None or shards % ep or
                   m.experts.count % ep):
        raise Illegal("whole experts")
    if is_memory:
        tensors = in_memory(m, tensors)
    tp_rank, shard_rank = rank % tp, rank // tp % shards
    held = {}
    for name, tensor in tensors.items():
        if name.endswith("e_score_correction_bias"):
            held[name] = tensor.pinned("F32")  # a buffer: whole everywhere
            continue
        if tp > 1:
            tensor = _parallel(m, name, tensor, tp, tp_rank)
        count = tensor.bits.shape[0]
        if ep > 1 and re.search(r"\.experts\.[^.]*$", name):
            # Experts are dealt out in equal runs, then each run in chunks.
            begin, _ = even(count, ep, shard_rank % ep)
            part = chunk(count // ep, shards // ep, shard_rank // ep)
            rows = slice(begin + part[0], begin + part[1])
        else:
            rows = slice(*chunk(count, shards, shard_rank))
        held[name] = tensor.rows(rows)
    return held


def in_memory(m, tensors):
    """The names and fused experts of transformers 5, which has no layers that
    predict further tokens."""
    held = {}
    for name, tensor in tensors.items():
        layer = re.match(r"(?:model|backbone)\.layers\.(\d+)\.", name)
        if layer and int(layer[1]) >= m.L:
            continue
        if m.experts is None or m.experts.is_packed or (
                f".{m.experts.block}.experts." not in name):
            held[_renamed(m, name)] = tensor
    if m.experts is None or m.experts.is_packed:
        return held
    for layer in filter(m.has_experts, range(m.L)):
        held |= _fused(m, tensors, layer)
    return held


def _renamed(m, name):
    if m.family == "nemotron_h":
        return re.sub(r"^backbone\.", "model.", name)
    if m.family == "mixtral":
        return name.replace(".block_sparse_moe.", ".mlp.")
    return name


def _fused(m, tensors, layer):
    x = m.experts
    source = f"{m.at}layers.{layer}.{x.block}.experts."
    to = f"model.layers.{layer}." + (
        "mlp" if x.block == "block_sparse_moe" else x.block) + ".experts."
    dtype = tensors[f"{source}0.{x.up}.weight"].dtype
    size = x.latent or m.H
    first, down = [], []
    for e in range(x.count):
        first.append(concat([tensors[f"{source}{e}.{name}.weight"]
                             for name in (x.gate, x.up) if name]))
        down.append(tensors[f"{source}{e}.{x.down}.weight"])
    rows = x.width * (2 if x.gate else 1)
    return {to + ("gate_up_proj" if x.gate else "up_proj"):
                stack(first, (rows, size), dtype),
            to + "down_proj": stack(down, (size, x.width), dtype)}


def _parallel(m, name, tensor, tp, tp_rank):
    if re.search(r"\.experts\.[^.]*$", name):
        if m.experts.is_packed:
            raise Illegal("no plan of GPT-OSS")
        width = m.experts.width
        begin, end = even(width, tp, tp_rank)
        if name.endswith(".down_proj"):
            return Bits(tensor.dtype, tensor.bits[:, :, begin:end])
        halves = range(tensor.bits.shape[1] // width)
        rows = np.concatenate([np.arange(half * width + begin,
                                         half * width + end)
                               for half in halves])
        return Bits(tensor.dtype, tensor.bits[:, rows])
    if any(part in name for part in _ROWS):
        return tensor.rows(slice(*chunk(len(tensor.bits), tp, tp_rank)))
    if name.endswith(_COLUMNS):
        return tensor.columns(*chunk(tensor.bits.shape[1], tp, tp_rank))
    return tensor
