"""The oracle against examples that were worked out by hand."""

from typing import NamedTuple

import numpy as np

import oracle


class Sizes(NamedTuple):
    """Of a dense decoder."""
    H: int = 1
    L: int = 1
    Hq: int = 4
    G: int = 2
    D: int = 2
    I: int = 8
    V: int = 130
    tied: bool = False


def rows(count, width=1):
    """A tensor whose row r holds r."""
    bits = np.repeat(np.arange(count, dtype=np.uint32)[:, None], width, 1)
    return oracle.Bits("F32", bits)


def model(**changes):
    return Sizes(**changes)


def config_of(m):
    return {"architectures": ["LlamaForCausalLM"], "hidden_size": m.H,
            "num_hidden_layers": m.L, "num_attention_heads": m.Hq,
            "num_key_value_heads": m.G, "head_dim": m.D,
            "intermediate_size": m.I, "vocab_size": m.V,
            "tie_word_embeddings": m.tied}


def checkpoint(m):
    """Every tensor holds 1000 * (its number) + row, in each column."""
    bases = {"q_proj": 1000, "k_proj": 2000, "v_proj": 3000, "gate_proj": 4000,
             "up_proj": 5000, "embed_tokens": 10000, "lm_head": 20000}
    result = {}
    for name, shape in oracle.logical_shapes(config_of(m)).items():
        base = sum(b for part, b in bases.items() if part in name)
        tensor = rows(shape[0], shape[1] if len(shape) == 2 else 1)
        bits = (tensor.bits + np.uint32(base)).reshape(shape)
        result[name] = oracle.Bits("F32", bits)
    return result


def held(m, spec, rank, name):
    tensor = oracle.shard(config_of(m), checkpoint(m), spec, rank)[name]
    return (tensor.bits if tensor.bits.ndim == 1 else
            tensor.bits[:, 0]).tolist()


def span(base, first, last):
    return list(range(base + first, base + last + 1))


Q, K, V = 1000, 2000, 3000


def test_qkv_groups_interleave():
    name = "decoder.layers.0.self_attention.linear_qkv.weight"
    merged = (span(Q, 0, 3) + span(K, 0, 1) + span(V, 0, 1) + span(Q, 4, 7) +
              span(K, 2, 3) + span(V, 2, 3))
    assert held(model(V=128), "megatron", 0, name) == merged
    # More ranks than groups: the cut goes through a group.
    assert held(model(V=128), "megatron:tp=4", 0, name) == span(Q, 0, 3)
    assert held(model(V=128), "megatron:tp=4", 1, name) == (span(K, 0, 1) +
                                                       span(V, 0, 1))
    assert held(model(V=128), "megatron:tp=4", 3, name) == (span(K, 2, 3) +
                                                       span(V, 2, 3))


def test_kv_heads_repeat():
    m, name = model(Hq=8), "model.layers.0.self_attn.qkv_proj.weight"
    assert held(m, "vllm:tp=4", 1, name) == (span(Q, 4, 7) + span(K, 0, 1) +
                                             span(V, 0, 1))
    assert held(m, "vllm:tp=4", 2, name) == (span(Q, 8, 11) + span(K, 2, 3) +
                                             span(V, 2, 3))
    assert held(m, "vllm:tp=8", 5, name) == (span(Q, 10, 11) + span(K, 2, 3) +
                                             span(V, 2, 3))


def test_gate_and_up():
    name = "decoder.layers.0.mlp.linear_fc1.weight"
    assert held(model(), "megatron:tp=2", 1, name) == (span(4000, 4, 7) +
                                                       span(5000, 4, 7))
    name = "model.layers.0.mlp.gate_up_proj.weight"
    assert held(model(), "vllm:tp=4", 1, name) == (span(4000, 2, 3) +
                                                   span(5000, 2, 3))


def test_fsdp_tails():
    def parts(count, spec, ranks):
        m = model(V=count)
        return [[row - 10000 for row in held(m, spec, rank,
                                             "model.embed_tokens.weight")]
                for rank in range(ranks)]

    assert parts(10, "fsdp:shard=4", 4) == [[0, 1, 2], [3, 4, 5], [6, 7, 8],
                                            [9]]
    assert parts(5, "fsdp:shard=4", 4) == [[0, 1], [2, 3], [4], []]
    # Tensor parallelism cuts first; ranks are (shard, tp), tp fastest.
    assert parts(9, "fsdp:shard=4,tp=2", 8) == [[0, 1], [5], [2, 3], [6], [4],
                                                [7], [], [8]]
    assert parts(6, "fsdp:replicate=2,shard=2", 4) == [[0, 1, 2], [3, 4, 5],
                                                       [0, 1, 2], [3, 4, 5]]


def test_vocabulary_padding():
    def embedding(spec, rank):
        name = ("model.embed_tokens.weight" if spec.startswith("vllm") else
                "embedding.word_embeddings.weight")
        return held(model(Hq=4, G=4, I=8), spec, rank, name)

    assert embedding("vllm:tp=4", 1) == span(10000, 48, 95)
    assert embedding("vllm:tp=4", 2) == span(10000, 96, 129) + [0] * 14
    assert embedding("vllm:tp=4", 3) == [0] * 48
    assert embedding("megatron:tp=2,vocab_divisor=8", 1) == (
        span(10000, 72, 129) + [0] * 14)


def stages(layers, spec, ranks, pattern):
    m = model(L=layers)
    counts = []
    for rank in range(ranks):
        names = oracle.shard(config_of(m), checkpoint(m), spec, rank)
        counts.append(sum(pattern in name for name in names))
    return counts


def test_pipeline_stages():
    assert stages(10, "megatron:pp=4,first=2,last=2", 4,
                  "linear_fc2.weight") == [2, 3, 3, 2]
    assert stages(10, "vllm:pp=4", 4, "down_proj.weight") == [2, 3, 3, 2]
    assert stages(61, "vllm:pp=8", 8, "down_proj.weight") == [7, 7, 8, 8, 8, 8,
                                                              8, 7]
    assert stages(94, "vllm:pp=4", 4, "down_proj.weight") == [23, 24, 24, 23]


def test_step_changes_every_element():
    tensor = rows(1000)
    first, second = oracle.step(tensor, 1), oracle.step(tensor, 2)
    assert (tensor.bits != first.bits).all()
    assert (first.bits != second.bits).all()
    # By hand: h(0) = 0; 3 * 2654435761 mod 2^32 = 3668339987, >> 16 = 55974,
    # (55974 + 1) mod 7 + 1 = 4.
    assert first.bits[0, 0] == 0 ^ 2
    assert first.bits[3, 0] == 3 ^ ((55974 + 1) % 7 + 1)


def test_cast_rounds_to_even():
    wide = oracle.Bits("F32", np.array(
        [0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x7F800001], np.uint32))
    assert oracle.cast(wide, "BF16").bits.tolist() == [0x3F80, 0x3F82, 0x7F80,
                                                       0x7FC0]


# ---- mixtures of experts ----------------------------------------------------


def expert_config(count, width, heads=4):
    return {"architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 2,
            "num_hidden_layers": 1, "num_attention_heads": heads,
            "num_key_value_heads": heads, "head_dim": 2,
            "intermediate_size": 8, "vocab_size": 64, "num_experts": count,
            "moe_intermediate_size": width}


def expert_rank(config, spec, rank):
    """The rank's tensors; expert e's rows (of down: columns) are 1000 e plus
    100, 200 or 300 for gate, up and down plus their number."""
    tensors = {}
    for name, shape in oracle.logical_shapes(config).items():
        bits = np.zeros(shape, np.uint32)
        if ".experts." in name:
            expert, part = name.split(".experts.")[1].split(".")[:2]
            base = 1000 * int(expert) + {"gate_proj": 100, "up_proj": 200,
                                         "down_proj": 300}[part]
            along = np.arange(max(shape), dtype=np.uint32)
            bits += np.uint32(base) + (
                along if part == "down_proj" else along[:, None])
        tensors[name] = oracle.Bits("F32", bits)
    held = oracle.shard(config, tensors, spec, rank)
    return {name.partition(".experts.")[2]: tensor.bits
            for name, tensor in held.items() if ".experts." in name}


def test_experts_over_tensor_parallelism():
    held = expert_rank(expert_config(4, 4), "vllm:tp=2", 1)
    assert held["routed_experts.w13_weight"][:, :, 0].tolist() == [
        [1000 * e + row for row in (102, 103, 202, 203)] for e in range(4)]
    assert held["routed_experts.w2_weight"][:, 0].tolist() == [
        [1000 * e + column for column in (302, 303)] for e in range(4)]


def test_experts_have_a_grid_of_their_own():
    config = expert_config(4, 4)
    # tp 2, dp 2: with etp 1 the expert rank is the tensor-parallel one; with
    # etp 2 it runs along data parallelism.
    for spec, dealt in (("megatron:tp=2,dp=2,ep=2,etp=1", [0, 1, 0, 1]),
                        ("megatron:tp=2,dp=2,ep=2", [0, 0, 1, 1])):
        for rank, ep_rank in enumerate(dealt):
            held = expert_rank(config, spec, rank)
            assert [held[f"linear_fc1.weight{j}"][0, 0] // 1000
                    for j in range(2)] == [2 * ep_rank, 2 * ep_rank + 1]
    held = expert_rank(config, "megatron:tp=2,dp=2,ep=2", 3)
    assert held["linear_fc1.weight1"][:, 0].tolist() == [3102, 3103, 3202,
                                                         3203]
    assert held["linear_fc2.weight1"][0].tolist() == [3302, 3303]
    held = expert_rank(config, "megatron:dp=2,ep=2,experts=sequential", 1)
    assert held["local_experts.0.linear_fc1.weight"][:, 0].tolist() == (
        span(2100, 0, 3) + span(2200, 0, 3))


def dealt(config, spec, ranks, name):
    return [(expert_rank(config, spec, rank)[name][:, 0, 0] // 1000).tolist()
            for rank in range(ranks)]


def test_experts_are_dealt_out_in_runs():
    name = "routed_experts.w2_weight"
    assert dealt(expert_config(10, 2), "vllm:tp=4,ep=4", 4, name) == [
        [0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]
    assert dealt(expert_config(10, 2, 2), "vllm:tp=2,dp=2,ep=4", 4, name) == [
        [0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]
    assert dealt(expert_config(6, 2), "vllm:tp=4,ep=4", 4, name) == [
        [0, 1], [2, 3], [4], [5]]
    assert dealt(expert_config(2, 2), "vllm:tp=4,ep=4", 4, name) == [
        [0], [1], [], []]


def test_fused_experts_in_chunks():
    assert dealt(expert_config(8, 2), "fsdp:shard=5", 5, "down_proj") == [
        [0, 1], [2, 3], [4, 5], [6, 7], []]
    held = expert_rank(expert_config(3, 2), "fsdp:shard=2", 1)
    assert held["gate_up_proj"][:, :, 0].tolist() == [[2100, 2101, 2200, 2201]]


def test_layers_with_experts():
    config = expert_config(2, 2) | {"num_hidden_layers": 6,
                                    "decoder_sparse_step": 2,
                                    "mlp_only_layers": [3]}
    found = {name.split(".")[2] for name in oracle.logical_shapes(config)
             if ".experts." in name}
    assert found == {"1", "5"}
