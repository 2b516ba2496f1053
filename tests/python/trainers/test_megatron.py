"""weft.megatron.source on real Megatron-Core models in real processes,
against the logical tensors that the parameters were filled from."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core")

import megatron_models as models  # noqa: E402
import weft.megatron  # noqa: E402
from megatron.core import parallel_state  # noqa: E402
from placement_reader import Rank, assemble, assert_same  # noqa: E402
from rank_processes import run_ranks  # noqa: E402
from weft.megatron.family import decoder_of  # noqa: E402

FAMILIES = {
    "llama-tied": models.hf_config("llama", tied=True),
    "llama-biases": models.hf_config("llama", attention_bias=True,
                                     mlp_bias=True),
    "qwen2": models.hf_config("qwen2"),
    "qwen2-tied": models.hf_config("qwen2", tied=True),
    "qwen3": models.hf_config("qwen3"),
}


def filled_chunks(config, tp, pp, vpp=1, cp=1, first=None, ep=1, etp=None):
    chunks = models.build(config, tp, pp, vpp, cp, first, ep, etp)
    stage = parallel_state.get_pipeline_model_parallel_rank()
    for i, chunk in enumerate(chunks):
        layers = models.layers_of(config, pp, stage, vpp, i, first)
        models.fill(chunk, config, models.logical_tensors(config), layers, tp,
                    parallel_state.get_tensor_model_parallel_rank())
    return chunks


def what_is_held(source):
    source.check()
    return Rank(source.placement, [t.clone() for t in source.tensors()])


def megatron_rank(config, *degrees):
    chunks = filled_chunks(config, *degrees)
    return what_is_held(weft.megatron.source(chunks, config))


def as_transformer_engine(chunk):
    """Gives the norms the names that Transformer Engine's layers have."""
    for layer in chunk.decoder.layers:
        for norm, linear in (
                (layer.input_layernorm, layer.self_attention.linear_qkv),
                (layer.pre_mlp_layernorm, layer.mlp.linear_fc1)):
            linear.register_parameter("layer_norm_weight", norm.weight)
            norm.register_parameter("weight", None)
    return chunk


def group_experts(chunk):
    """Gives the experts the names that Transformer Engine's grouped layers
    have."""
    for layer in chunk.decoder.layers:
        experts = layer.mlp.experts
        for linear in ("linear_fc1", "linear_fc2"):
            group = torch.nn.Module()
            for j, expert in enumerate(experts.local_experts):
                group.register_parameter(f"weight{j}",
                                         getattr(expert, linear).weight)
            experts.register_module(linear, group)
        del experts.local_experts
    return chunk


class Wrapper(torch.nn.Module):
    """As DistributedDataParallel and Float16Module wrap a model."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def transformer_engine_rank(config, tp, pp):
    chunks = filled_chunks(config, tp, pp)
    chunks = [Wrapper(Wrapper(as_transformer_engine(c))) for c in chunks]
    return what_is_held(weft.megatron.source(chunks, config))


def assert_assembles(ranks, config):
    # Padding rows of the vocabulary are holes.
    assembled = assemble(ranks, may_have_holes=True)
    assert_same(assembled, models.logical_tensors(config))
    for rank in ranks:
        for stored in rank.placement.stored:
            if "word_embeddings" in stored.name or (
                    "output_layer" in stored.name):
                continue
            count = sum(_elements(f.box) for f in stored.fragments)
            assert count == torch.Size(stored.shape).numel(), stored.name


def _elements(box):
    return torch.Size([end - begin for begin, end in box]).numel()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tp,pp", [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_dense(family, tp, pp, tmp_path):
    config = FAMILIES[family]
    ranks = run_ranks(megatron_rank, tp * pp, tmp_path, config, tp, pp)
    assert_assembles(ranks, config)
    degrees = [f"{k}={n}" for k, n in (("tp", tp), ("pp", pp)) if n > 1]
    assert ranks[0].placement.layout_spec == (
        "megatron" + (":" + ",".join(degrees) if degrees else ""))
    assert [r.placement.rank for r in ranks] == list(range(tp * pp))


def test_last_stage_of_a_tied_model_holds_a_copy(tmp_path):
    config = FAMILIES["llama-tied"]
    ranks = run_ranks(megatron_rank, 2, tmp_path, config, 1, 2)
    last = {s.name: s for s in ranks[1].placement.stored}
    head = last["output_layer.weight"].fragments
    names = [ranks[1].placement.tensors[f.tensor].name for f in head]
    assert names == ["model.embed_tokens.weight"]


def test_cut_through_a_query_group(tmp_path):
    # 4 query heads, 1 group, tp 2: rank 0 holds q0 q1 q2, rank 1 q3 k v.
    config = models.hf_config("qwen2", groups=1)
    ranks = run_ranks(megatron_rank, 2, tmp_path, config, 2, 1)
    assert_assembles(ranks, config)
    of_rank = []
    for rank in ranks:
        stored = next(s for s in rank.placement.stored if s.name ==
                      "decoder.layers.0.self_attention.linear_qkv.bias")
        of_rank.append([(rank.placement.tensors[f.tensor].name[-11:-5], f.box)
                        for f in stored.fragments])
    assert of_rank == [[("q_proj", ((0, 12),))],
                       [("q_proj", ((12, 16),)), ("k_proj", ((0, 4),)),
                        ("v_proj", ((0, 4),))]]


def test_virtual_pipeline(tmp_path):
    config = models.hf_config("qwen3", layers=4, tied=True)
    ranks = run_ranks(megatron_rank, 2, tmp_path, config, 1, 2, 2)
    assert_assembles(ranks, config)
    assert ranks[0].placement.layout_spec == "megatron:pp=2,vpp=2"
    assert "model1.decoder.layers.0.mlp.linear_fc2.weight" in [
        s.name for s in ranks[0].placement.stored]


def test_uneven_stages(tmp_path):
    config = models.hf_config("llama", layers=3)
    ranks = run_ranks(megatron_rank, 2, tmp_path, config, 1, 2, 1, 1, 1)
    assert_assembles(ranks, config)


def test_replicas(tmp_path):
    config = models.hf_config("llama")
    ranks = run_ranks(megatron_rank, 4, tmp_path, config, 2, 1)
    assert_assembles(ranks, config)
    assert ranks[0].placement.layout_spec == "megatron:tp=2,dp=2"
    ranks = run_ranks(megatron_rank, 4, tmp_path, config, 1, 2, 1, 2)
    assert_assembles(ranks, config)
    assert ranks[0].placement.layout_spec == "megatron:pp=2,cp=2"


def test_names_of_transformer_engine_and_wrappers(tmp_path):
    config = models.hf_config("qwen3")
    ranks = run_ranks(transformer_engine_rank, 2, tmp_path, config, 2, 1)
    assert_assembles(ranks, config)
    assert ("decoder.layers.0.mlp.linear_fc1.layer_norm_weight"
            in [s.name for s in ranks[0].placement.stored])


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
@pytest.mark.parametrize("num_ranks,degrees,spec", [
    (1, (1, 1), "megatron"),
    (2, (1, 1, 1, 1, None, 2, 1), "megatron:dp=2,ep=2"),
    (4, (2, 1, 1, 1, None, 2, 1), "megatron:tp=2,dp=2,ep=2,etp=1"),
    (4, (2, 1, 1, 1, None, 2, 2), "megatron:tp=2,dp=2,ep=2"),
    (4, (1, 2, 1, 1, None, 2, 1), "megatron:pp=2,dp=2,ep=2"),
])
def test_experts(family, num_ranks, degrees, spec, tmp_path):
    config = models.hf_config(family)
    ranks = run_ranks(megatron_rank, num_ranks, tmp_path, config, *degrees)
    assert_assembles(ranks, config)
    assert ranks[0].placement.layout_spec == spec


def grouped_rank(config):
    chunk = group_experts(filled_chunks(config, 1, 1, 1, 1, None, 2, 1)[0])
    return what_is_held(weft.megatron.source(chunk, config))


def test_grouped_experts(tmp_path):
    config = models.hf_config("qwen3_moe")
    ranks = run_ranks(grouped_rank, 2, tmp_path, config)
    assert_assembles(ranks, config)
    assert ("decoder.layers.1.mlp.experts.linear_fc1.weight1"
            in [s.name for s in ranks[1].placement.stored])


@pytest.mark.parametrize("name", ["Qwen3MoeConfig", "MixtralConfig"])
def test_configs_of_transformers(name):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, name)(num_hidden_layers=2)
    decoder = decoder_of(config)
    assert decoder.E == config.num_local_experts > 1
    assert decoder.has_experts(1)


# ---- hostile models ---------------------------------------------------------


def faults_rank():
    """{what was done: the message it got}."""
    config = models.hf_config("llama")
    chunk = filled_chunks(config, 1, 1)[0]
    messages = {}

    def refuse(what, *args):
        with pytest.raises(weft.megatron.UnsupportedTensors) as caught:
            weft.megatron.source(*args)
        messages[what] = str(caught.value)

    refuse("tied", [chunk], config | {"tie_word_embeddings": True})
    refuse("biases", [chunk], config | {"attention_bias": True})
    refuse("vocabulary", [chunk], config | {"vocab_size": 49})
    refuse("width", [chunk], config | {"intermediate_size": 12})
    refuse("layers", [chunk], config | {"num_hidden_layers": 1})
    refuse("module", torch.nn.Linear(2, 2), config)
    refuse("family", [chunk], config | {"model_type": "gemma2"})
    chunk.config.layernorm_zero_centered_gamma = True
    refuse("gamma", [chunk], config)
    chunk.config.layernorm_zero_centered_gamma = False
    norm = chunk.decoder.layers[1].input_layernorm
    norm.register_parameter("bias", torch.nn.Parameter(torch.zeros(models.H)))
    chunk.register_buffer("router_state", torch.zeros(3))
    refuse("unknown", [chunk], config)
    norm.register_parameter("bias", None)
    del chunk.router_state

    source = weft.megatron.source([chunk], config)
    source.check()
    weight = chunk.decoder.layers[0].mlp.linear_fc2.weight
    weight.data = weight.data.clone()
    with pytest.raises(weft.megatron.MemoryMoved) as caught:
        source.check()
    messages["moved"] = str(caught.value)
    return messages


def test_hostile_models(tmp_path):
    messages = run_ranks(faults_rank, 1, tmp_path)[0]
    assert "tie_word_embeddings=True" in messages["tied"]
    for name in ("q_proj.bias", "o_proj.bias"):
        assert (f'no parameter of the model holds "model.layers.1.self_attn.'
                f'{name}"') in messages["biases"]
    assert ('"embedding.word_embeddings.weight": 1 ranks with 48 rows each are '
            "fewer than the 49 rows") in messages["vocabulary"]
    assert ('"decoder.layers.0.mlp.linear_fc1.weight" has shape (20, 12) but '
            "its rule says (24, 12)") in messages["width"]
    assert "decoder.layers.1.mlp.linear_fc2.weight" in messages["width"]
    assert ("layers.1 has global number 1, which is not below "
            "num_hidden_layers=1") in messages["layers"]
    assert "a chunk is a Linear" in messages["module"]
    assert 'model_type "gemma2"' in messages["family"]
    assert "layernorm_zero_centered_gamma" in messages["gamma"]
    assert ('"decoder.layers.1.input_layernorm.bias" of shape (12,) has no '
            "rule") in messages["unknown"]
    assert '"router_state" of shape (3,) has no rule' in messages["unknown"]
    assert messages["unknown"].startswith("2 faults: ")
    assert messages["moved"].startswith("1 of ")
    assert "decoder.layers.0.mlp.linear_fc2.weight" in messages["moved"]
