"""The oracle's inventories against published totals, and its rules for single
families against examples that were worked out by hand."""

import json
import math

import numpy as np
import pytest

import oracle


def latent(**changes):
    return {"qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
            "v_head_dim": 128, "q_lora_rank": 1536, "kv_lora_rank": 512,
            "moe_intermediate_size": 2048, "n_shared_experts": 1,
            "vocab_size": 129280, "hidden_size": 7168,
            "num_hidden_layers": 61, "num_attention_heads": 128,
            "intermediate_size": 18432, "first_k_dense_replace": 3,
            "n_routed_experts": 256} | changes


DEEPSEEK_V3 = latent(architectures=["DeepseekV3ForCausalLM"])
KIMI_K2 = DEEPSEEK_V3 | {
    "num_attention_heads": 64, "first_k_dense_replace": 1,
    "n_routed_experts": 384, "vocab_size": 163840}
GLM_5 = latent(
    architectures=["GlmMoeDsaForCausalLM"], hidden_size=6144,
    num_hidden_layers=78, num_attention_heads=64, qk_nope_head_dim=192,
    v_head_dim=256, q_lora_rank=2048, intermediate_size=12288,
    vocab_size=154880, index_n_heads=32, index_head_dim=128)
GLM_4_5 = {
    "architectures": ["Glm4MoeForCausalLM"], "hidden_size": 5120,
    "num_hidden_layers": 92, "num_attention_heads": 96,
    "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 12288,
    "moe_intermediate_size": 1536, "n_routed_experts": 160,
    "n_shared_experts": 1, "first_k_dense_replace": 3, "vocab_size": 151552,
    "attention_bias": True, "use_qk_norm": True}
GPT_OSS = {
    "architectures": ["GptOssForCausalLM"], "hidden_size": 2880,
    "num_hidden_layers": 36, "num_attention_heads": 64,
    "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 2880,
    "num_local_experts": 128, "vocab_size": 201088}
# 23 of Mamba, 6 of attention and 23 of experts.
NEMOTRON = {
    "architectures": ["NemotronHForCausalLM"], "hidden_size": 2688,
    "hybrid_override_pattern": "M" * 23 + "*" * 6 + "E" * 23,
    "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128,
    "moe_intermediate_size": 1856, "n_routed_experts": 128,
    "moe_shared_expert_intermediate_size": 3712, "vocab_size": 131072,
    "mamba_num_heads": 64, "mamba_head_dim": 64, "n_groups": 8,
    "ssm_state_size": 128, "conv_kernel": 4}
QWEN3_30B = {
    "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 2048,
    "num_hidden_layers": 48, "num_attention_heads": 32,
    "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144,
    "moe_intermediate_size": 768, "num_experts": 128, "vocab_size": 151936}


@pytest.mark.parametrize("config,count,parameters", [
    (QWEN3_30B, 18_867, 30_532_122_624),
    (DEEPSEEK_V3, 45_395, 671_026_419_200),
    (DEEPSEEK_V3 | {"num_nextn_predict_layers": 1}, 46_183, 684_489_845_504),
    (KIMI_K2, 69_975, 1_026_408_232_448),
    (GLM_5, 59_079, 743_911_218_432),
    (GLM_5 | {"index_topk_freq": 4, "index_skip_topk_offset": 3}, 58_794,
     743_377_019_904),
    (GLM_4_5, 44_189, 352_797_829_024),
    (GLM_4_5 | {"num_nextn_predict_layers": 1}, 44_691, 358_337_791_296),
    (GPT_OSS, 615, 116_829_156_672),
    (GPT_OSS | {"num_hidden_layers": 24, "num_local_experts": 32}, 411,
     20_914_757_184),
    (NEMOTRON, 6_243, 31_577_940_288),
])
def test_published_totals(config, count, parameters):
    shapes = oracle.logical_shapes(config)
    assert len(shapes) == count
    assert sum(map(math.prod, shapes.values())) == parameters


def numbered(config):
    """Row r of a tensor of rows holds 100 + r; element (e, i, j) of a stack
    10000 e + 100 i + j."""
    tensors = {}
    for name, shape in oracle.logical_shapes(config).items():
        index = np.indices(shape).astype(np.uint32)
        bits = (index[0] * 10000 + index[1] * 100 + index[2]
                if len(shape) == 3 and "conv" not in name else index[0] + 100)
        tensors[name] = oracle.Bits("F32", bits.astype(np.uint32))
    return tensors


def rows(config, spec, rank, end):
    """What the rows of the only tensor with that end of its name hold."""
    held = oracle.shard(config, numbered(config), spec, rank)
    (name,) = [n for n in held if n.endswith(end)]
    bits = held[name].bits
    return (bits.reshape(bits.shape[0], -1)[:, 0] - 100).tolist()


def span(*pairs):
    return [x for first, last in pairs for x in range(first, last + 1)]


TINY_LATENT = latent(
    architectures=["DeepseekV3ForCausalLM"], hidden_size=2, q_lora_rank=4,
    kv_lora_rank=2, qk_nope_head_dim=2, qk_rope_head_dim=4, v_head_dim=3,
    num_attention_heads=2, num_hidden_layers=1, first_k_dense_replace=1,
    intermediate_size=4, vocab_size=64, n_routed_experts=2,
    moe_intermediate_size=2)


def test_latent_attention():
    assert rows(TINY_LATENT, "vllm:tp=2", 1, "kv_b_proj.weight") == span(
        (5, 9))
    for rank in range(2):
        assert rows(TINY_LATENT, "vllm:tp=2", rank,
                    "fused_qkv_a_proj.weight") == span((0, 3), (0, 5))
    assert rows(TINY_LATENT, "megatron:tp=2,impl=local", 1,
                "linear_kv_down_proj.weight") == span((3, 5))
    assert rows(TINY_LATENT, "megatron:tp=2", 1,
                "linear_kv_down_proj.weight") == span((0, 5))


def test_mamba_segments():
    config = NEMOTRON | {
        "hybrid_override_pattern": "M", "hidden_size": 1,
        "mamba_num_heads": 4, "mamba_head_dim": 2, "n_groups": 2,
        "ssm_state_size": 2, "vocab_size": 64}
    for framework in ("vllm", "megatron"):
        spec = framework + ":tp=2"
        assert rows(config, spec, 0, "in_proj.weight") == span(
            (0, 3), (8, 11), (16, 17), (20, 21), (24, 25))
        assert rows(config, spec, 1, "in_proj.weight") == span(
            (4, 7), (12, 15), (18, 19), (22, 23), (26, 27))
        assert rows(config, spec, 0, "conv1d.weight") == span(
            (0, 3), (8, 9), (12, 13))
        assert rows(config, spec, 1, "conv1d.weight") == span(
            (4, 7), (10, 11), (14, 15))
    # One group that all heads share is on every rank.
    one = config | {"n_groups": 1}
    for rank in range(2):
        assert rows(one, "vllm:tp=2", rank, "conv1d.weight") == span(
            (4 * rank, 4 * rank + 3), (8, 9), (10, 11))
    real = NEMOTRON | {"hybrid_override_pattern": "M", "hidden_size": 1,
                       "vocab_size": 64}
    assert rows(real, "vllm:tp=4", 1, "in_proj.weight") == span(
        (1024, 2047), (5120, 6143), (8448, 8703), (9472, 9727),
        (10256, 10271))


def test_mamba_takes_the_exponential():
    config = NEMOTRON | {"hybrid_override_pattern": "M", "hidden_size": 1,
                         "vocab_size": 64}
    tensors = numbered(config)
    logs = np.linspace(-3, 3, 64).astype(np.float32)
    tensors["backbone.layers.0.mixer.A_log"] = oracle.Bits(
        "F32", logs.view(np.uint32))
    held = oracle.shard(config, tensors, "vllm:tp=2,dtype=bf16", 1)
    a = held["model.layers.0.mixer.A"]
    assert a.dtype == "F32"
    np.testing.assert_allclose(a.bits.view(np.float32),
                               -np.exp(logs[32:].astype(np.float64)), 1e-7)


TINY_OSS = GPT_OSS | {
    "hidden_size": 2, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 2, "intermediate_size": 4,
    "num_local_experts": 2, "vocab_size": 64}


def test_packed_experts():
    held = oracle.shard(TINY_OSS, numbered(TINY_OSS), "vllm:tp=2", 1)
    at = "model.layers.0.mlp.experts.routed_experts."
    first, second = held[at + "w13_weight"], held[at + "w2_weight"]
    # Element (e, i, j) of the file is at (e, j, i); columns 4 to 7.
    assert first.bits.tolist() == [[[10000 * e + 100 * i + j
                                     for i in range(2)] for j in range(4, 8)]
                                   for e in range(2)]
    assert second.bits.tolist() == [[[10000 * e + 100 * i + j
                                      for i in range(2, 4)] for j in range(2)]
                                    for e in range(2)]
    assert (held[at + "w2_bias"].bits == 0).all()
    whole = oracle.shard(TINY_OSS, numbered(TINY_OSS), "vllm:tp=2", 0)
    assert (whole[at + "w2_bias"].bits != 0).all()
    held = oracle.shard(TINY_OSS, numbered(TINY_OSS), "megatron", 0)
    fc1 = held["decoder.layers.0.mlp.experts.linear_fc1.weight1"].bits
    assert fc1[:, 0].tolist() == [10000 + j for j in
                                  (0, 2, 4, 6, 1, 3, 5, 7)]


def dealt(config, spec, ranks):
    """The experts of each rank, each of which is filled with its number."""
    tensors = numbered(config)
    for name, tensor in tensors.items():
        if ".experts." in name:
            tensor.bits[...] = int(name.split(".experts.")[1].split(".")[0])
    found = []
    for rank in range(ranks):
        held = oracle.shard(config, tensors, spec, rank)
        first, second = (held[f"model.layers.0.mlp.experts.routed_experts.{n}"]
                         .bits[:, 0, 0].tolist()
                         for n in ("w13_weight", "w2_weight"))
        assert first == second
        found.append(first)
    return found


def test_experts_are_placed(tmp_path):
    config = {k: v for k, v in TINY_OSS.items() if k != "num_local_experts"} | {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe",
        "num_experts": 10, "moe_intermediate_size": 4,
        "attention_bias": False, "num_attention_heads": 8,
        "num_key_value_heads": 4}
    runs = [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]
    assert dealt(config, "vllm:tp=4,ep=4", 4) == runs
    # Only models that choose groups of experts first can deal them in turn.
    spec = "vllm:tp=4,ep=4,placement=round_robin"
    assert dealt(config, spec, 4) == runs
    assert dealt(config | {"n_group": 2}, spec, 4) == [
        [0, 4, 8], [1, 5, 9], [2, 6], [3, 7]]
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"physical_to_logical": [0, 1, 2, 3, 0, 1]}))
    config = config | {"num_experts": 4, "num_attention_heads": 3,
                       "num_key_value_heads": 3, "intermediate_size": 6,
                       "vocab_size": 192}
    for spec in (f"vllm:tp=3,ep=3,eplb={table}", "vllm:tp=3,ep=3,redundant=2"):
        assert dealt(config, spec, 3) == [[0, 1], [2, 3], [0, 1]]


def test_whole_experts_over_a_mesh_of_their_own():
    def experts(count):
        config = TINY_OSS | {"num_local_experts": count}
        name = "model.layers.0.mlp.experts.down_proj"
        found = []
        for rank in range(4):
            held = oracle.shard(config, numbered(config), "fsdp:shard=4,ep=2",
                                rank)[name]
            found.append((held.bits[:, 0, 0] // 10000).tolist())
        return found

    assert experts(8) == [[0, 1], [4, 5], [2, 3], [6, 7]]
    assert experts(6) == [[0, 1], [3, 4], [2], [5]]


def chunks(layers, spec, ranks):
    """The layers of each chunk of each rank."""
    config = {"architectures": ["LlamaForCausalLM"], "hidden_size": 1,
              "num_hidden_layers": layers, "num_attention_heads": 1,
              "intermediate_size": 1, "vocab_size": 4}
    tensors = numbered(config)
    for i in range(layers):
        tensors[f"model.layers.{i}.input_layernorm.weight"] = oracle.Bits(
            "F32", np.full(1, i, np.uint32))
    found = []
    for rank in range(ranks):
        held = oracle.shard(config, tensors, spec, rank)
        of_rank = {}
        for name, tensor in held.items():
            if name.endswith("linear_qkv.layer_norm_weight"):
                chunk = name.partition(".decoder")[0]
                of_rank.setdefault(chunk, []).append(int(tensor.bits[0]))
        found.append(list(of_rank.values()))
    return found


def test_virtual_stages():
    assert chunks(8, "megatron:pp=2,vpp=2", 2) == [[[0, 1], [4, 5]],
                                                   [[2, 3], [6, 7]]]
    assert chunks(14, "megatron:pp=2,vpp=2,first=6", 2) == [
        [[0, 1, 2], [7, 8, 9]], [[3, 4, 5, 6], [10, 11, 12, 13]]]
    # Sixteen places for fourteen layers.
    spec = "megatron:pp=4,vpp=2,embedding_in_split=1,loss_in_split=1"
    assert chunks(14, spec, 4) == [[[0], [7, 8]], [[1, 2], [9, 10]],
                                   [[3, 4], [11, 12]], [[5, 6], [13]]]


def test_pipelines_that_count_embedding_and_loss():
    counted = chunks(14, "megatron:pp=4,embedding_in_split=1,loss_in_split=1",
                     4)
    assert [sum(of, []) for of in counted] == [
        [0, 1, 2], [3, 4, 5, 6], [7, 8, 9, 10], [11, 12, 13]]


def test_indexers_are_shared():
    config = GLM_5 | {"index_topk_freq": 4, "index_skip_topk_offset": 3}
    found = sorted(int(n.split(".")[2]) for n in oracle.logical_shapes(config)
                   if n.endswith("indexer.wk.weight"))
    assert found == [0, 1, 2, *range(6, 78, 4)] and len(found) == 21


def test_gated_queries():
    config = {
        "architectures": ["Qwen3NextForCausalLM"], "hidden_size": 1,
        "num_hidden_layers": 1, "layer_types": ["full_attention"],
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 2,
        "intermediate_size": 2, "vocab_size": 64, "num_experts": 2,
        "moe_intermediate_size": 2, "shared_expert_intermediate_size": 2,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "linear_key_head_dim": 1, "linear_value_head_dim": 1,
        "linear_conv_kernel_dim": 2}
    assert rows(config, "vllm:tp=2", 1, "qkv_proj.weight") == span(
        (8, 15), (2, 3), (2, 3))
    delta = config | {"layer_types": ["linear_attention"]}
    assert rows(delta, "vllm:tp=2", 1, "conv1d.weight") == span(
        (1, 1), (3, 3), (6, 7))
    assert rows(delta, "vllm:tp=2", 1, "in_proj_qkvz.weight") == span((6, 11))
