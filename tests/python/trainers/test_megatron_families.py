"""The layouts of Megatron-Core: real models have the tensors that the oracle
and `weft shard` name, in those shapes, in the layers that they say."""

import functools

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core")

import megatron_families as families  # noqa: E402
import oracle  # noqa: E402
import weft.megatron  # noqa: E402
from placement_reader import Rank, assemble, assert_same  # noqa: E402
from rank_processes import run_ranks  # noqa: E402

_COMMON = {
    "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 4, "intermediate_size": 24,
    "vocab_size": 100, "tie_word_embeddings": False, "rms_norm_eps": 1e-6,
    "num_experts_per_tok": 2, "torch_dtype": "float32", "rope_theta": 10000.0}
_EXPERTS = {"n_routed_experts": 4, "n_shared_experts": 2,
            "first_k_dense_replace": 1, "moe_intermediate_size": 12,
            "n_group": 1, "topk_group": 1, "norm_topk_prob": True,
            "routed_scaling_factor": 1.0, "hidden_act": "silu"}
CONFIGS = {
    "qwen3": _COMMON | {"architectures": ["Qwen3ForCausalLM"]},
    "qwen3_moe": _COMMON | {
        "architectures": ["Qwen3MoeForCausalLM"], "num_experts": 4,
        "moe_intermediate_size": 12, "mlp_only_layers": [1],
        "norm_topk_prob": True, "hidden_act": "silu"},
    "glm4_moe": _COMMON | _EXPERTS | {
        "architectures": ["Glm4MoeForCausalLM"], "attention_bias": True,
        "use_qk_norm": True},
    "deepseek_v3": _COMMON | _EXPERTS | {
        "architectures": ["DeepseekV3ForCausalLM"], "q_lora_rank": 6,
        "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4,
        "v_head_dim": 6, "num_key_value_heads": 4, "head_dim": 4,
        "num_nextn_predict_layers": 0},
}
LAYOUTS = [
    ("qwen3_moe", "tp=2,dp=2,ep=2,etp=1"), ("qwen3_moe", "tp=2,dp=2,ep=2"),
    ("qwen3_moe", "pp=2,first=1,dp=2,ep=2"), ("qwen3_moe", "pp=2,vpp=2"),
    ("qwen3", "pp=3,embedding_in_split=1,loss_in_split=1"),
    ("qwen3", "pp=2,last=1,tp=2,vocab_divisor=64"),
    ("glm4_moe", "tp=2,pp=2,first=3,ep=2,etp=1"),
    ("glm4_moe", "tp=4,ep=2,etp=2"),
    ("deepseek_v3", "tp=2,dp=2,ep=4,etp=1"),
    ("deepseek_v3", "pp=2,vpp=2,tp=2,ep=2,etp=1"),
]


def shapes_of_rank(config, spec):
    return {name: tuple(tensor.shape) for name, tensor in
            families.held(families.build(config, spec)).items()}


@pytest.mark.parametrize("kind,degrees", LAYOUTS)
def test_names_and_shapes(kind, degrees, tmp_path):
    config = CONFIGS[kind]
    spec = f"megatron:{degrees},impl=local,experts=sequential"
    tensors = {name: oracle.synth(name, shape, 1) for name, shape in
               oracle.logical_shapes(config).items()}
    ranks = run_ranks(shapes_of_rank, oracle.num_ranks(spec), tmp_path,
                      config, spec)
    for rank, found in enumerate(ranks):
        expected = oracle.shard(config, tensors, spec, rank)
        assert found == {name: tensor.bits.shape
                         for name, tensor in expected.items()}


def checkpoint(config):
    return {name: oracle.synth(name, shape, 2, "F32") for name, shape in
            oracle.logical_shapes(config).items()}


def filled_chunks(config, spec, rank):
    """Real chunks with the values that the oracle gives them; padding has
    others."""
    chunks = families.build(config, spec)
    held = families.held(chunks)
    values = oracle.shard(config, checkpoint(config), spec, rank)
    assert held.keys() == values.keys()
    with torch.no_grad():
        for name, tensor in held.items():
            value = torch.from_numpy(values[name].bits.copy()).view(
                torch.float32)
            if "word_embeddings" in name or "output_layer" in name:
                value[(value == 0).all(1)] = -123.0  # the rows of padding
            tensor.copy_(value)
    return chunks


def source_of_rank(config, spec):
    rank = torch.distributed.get_rank()
    source = weft.megatron.source(filled_chunks(config, spec, rank), config)
    source.check()
    return Rank(source.placement, [t.clone() for t in source.tensors()])


@pytest.mark.parametrize("kind,degrees", [
    ("glm4_moe", "tp=2,pp=2,first=3,ep=2,etp=1,vocab_divisor=32"),
    ("deepseek_v3", "tp=2,dp=2,ep=4,etp=1,vocab_divisor=64"),
    ("deepseek_v3", "pp=2,vpp=2,tp=2,ep=2,etp=1"),
])
def test_families_of_recipes_are_published(kind, degrees, tmp_path):
    config = CONFIGS[kind] | {"model_type": kind}
    spec = f"megatron:{degrees},impl=local,experts=sequential"
    ranks = run_ranks(source_of_rank, oracle.num_ranks(spec), tmp_path, config,
                      spec)
    expected = {name: torch.from_numpy(tensor.bits.copy()).view(torch.float32)
                for name, tensor in checkpoint(config).items()}
    assert_same(assemble(ranks, may_have_holes=True), expected)


def test_a_stage_without_a_vocabulary_needs_no_divisor(tmp_path):
    config = CONFIGS["glm4_moe"] | {"model_type": "glm4_moe", "vocab_size": 37}
    spec = ("megatron:tp=2,pp=4,ep=2,etp=1,vocab_divisor=32,impl=local,"
            "experts=sequential")
    ranks = run_ranks(source_of_rank, 8, tmp_path, config, spec)
    expected = {name: torch.from_numpy(tensor.bits.copy()).view(torch.float32)
                for name, tensor in checkpoint(config).items()}
    assert_same(assemble(ranks, may_have_holes=True), expected)


def settings_faults(config):
    """{setting: the message}, where all shapes and names fit."""
    spec = "megatron:pp=2,impl=local,experts=sequential"
    (chunk,) = filled_chunks(config, spec, torch.distributed.get_rank())
    messages = {}

    def refuse(what, hf_config):
        with pytest.raises(weft.megatron.UnsupportedTensors) as caught:
            weft.megatron.source([chunk], hf_config)
        messages[what] = str(caught.value)

    if chunk.post_process:  # the head has its name, tied or not
        refuse("tied", config | {"tie_word_embeddings": True})
    refuse("heads", config | {"num_attention_heads": 8, "head_dim": 2,
                              "num_key_value_heads": 4})
    for setting in ("rotary_interleaved", "moe_mlp_glu_interleave_size"):
        setattr(chunk.config, setting, 2)
        refuse(setting, config)
        setattr(chunk.config, setting, 0)
    weft.megatron.source([chunk], config)
    return messages


@pytest.mark.parametrize("kind", ["glm4_moe", "qwen3_moe"])
def test_settings_that_change_the_meaning_are_refused(kind, tmp_path):
    config = CONFIGS[kind] | {"model_type": kind}
    if kind == "glm4_moe":  # a norm of a head would tell its width
        config |= {"use_qk_norm": False}
    ranks = run_ranks(settings_faults, 2, tmp_path, config)
    for messages in ranks:
        assert ("config has 4 heads in 2 query groups but hf_config has 8 in 4"
                in messages["heads"])
        for setting in ("rotary_interleaved", "moe_mlp_glu_interleave_size"):
            assert f"config has {setting}" in messages[setting]
    assert ("share_embeddings_and_output_weights is False but hf_config has "
            "tie_word_embeddings=True") in ranks[1]["tied"]


def other_order_of_ranks(config, spec):
    """The message, or None: data-parallel neighbours share their experts."""
    families.parallel_state.initialize_model_parallel = functools.partial(
        families.parallel_state.initialize_model_parallel,
        order="tp-cp-dp-ep-pp")
    chunks = families.build(config, spec)
    try:
        weft.megatron.source(chunks, config)
    except weft.megatron.UnsupportedTensors as error:
        return str(error)
    return None


def test_experts_that_are_dealt_out_in_another_order_are_refused(tmp_path):
    config = CONFIGS["deepseek_v3"] | {"model_type": "deepseek_v3"}
    spec = "megatron:dp=4,ep=2,impl=local,experts=sequential"
    said = run_ranks(other_order_of_ranks, 4, tmp_path, config, spec)
    assert said[0] is None and said[3] is None
    assert "number 0 of ep and would be 1" in said[1]
    assert "number 1 of ep and would be 0" in said[2]


def faults_of_rank(config):
    """{what was done: the message it got}."""
    chunks = filled_chunks(config, "megatron:impl=local,experts=sequential", 0)
    messages = {}

    def refuse(what, hf_config):
        with pytest.raises(weft.megatron.UnsupportedTensors) as caught:
            weft.megatron.source(chunks, hf_config)
        messages[what] = str(caught.value)

    refuse("architecture", config | {"architectures": None})
    refuse("unknown", config | {"architectures": ["NobodyForCausalLM"]})
    refuse("width", config | {"moe_intermediate_size": 20})
    refuse("layers", config | {"num_hidden_layers": 3})
    norm = chunks[0].decoder.layers[1].input_layernorm
    norm.register_parameter("bias", torch.nn.Parameter(torch.zeros(16)))
    refuse("more", config)
    return messages


def test_what_no_recipe_says_is_refused(tmp_path):
    config = CONFIGS["deepseek_v3"] | {"model_type": "deepseek_v3"}
    (messages,) = run_ranks(faults_of_rank, 1, tmp_path, config)
    assert "no architectures" in messages["architecture"]
    assert "NobodyForCausalLM" in messages["unknown"]
    assert "linear_fc1.weight" in messages["width"]
    assert '"decoder.layers.3.' in messages["layers"]
    assert ('"decoder.layers.1.input_layernorm.bias" of shape (16,) has no '
            "rule") in messages["more"]
