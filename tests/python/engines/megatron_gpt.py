"""A real Megatron-Core GPTModel (dense, bf16, local layers) of a Hugging Face
config, and its parameters from checkpoint tensors by plain slicing."""

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.transformer_config import TransformerConfig

VOCABULARY_DIVISOR = 48  # awkward: no power of two, and no row count of vLLM


def build(config, tp, pp):
    """The chunk of this rank in the wrapper that a bf16 training puts around
    it (without which norms stay float32); initialises parallel_state."""
    # Core moves tied embeddings to the GPU whatever the settings say; this is
    # the rank's own process, so nobody else sees the change.
    torch.Tensor.cuda = lambda tensor: tensor
    parallel_state.initialize_model_parallel(tp, pp)
    has_norms = config["model_type"] == "qwen3"
    settings = TransformerConfig(
        num_layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        num_attention_heads=config["num_attention_heads"],
        num_query_groups=config["num_key_value_heads"],
        kv_channels=_head_dim(config),
        ffn_hidden_size=config["intermediate_size"],
        use_cpu_initialization=True, tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp, normalization="RMSNorm",
        gated_linear_unit=True, activation_func=torch.nn.functional.silu,
        add_bias_linear=False, add_qkv_bias=config["model_type"] == "qwen2",
        qk_layernorm=has_norms, bf16=True, params_dtype=torch.bfloat16,
        pipeline_dtype=torch.bfloat16, gradient_accumulation_fusion=False)
    stage = parallel_state.get_pipeline_model_parallel_rank()
    return Float16Module(settings, GPTModel(
        settings,
        get_gpt_layer_local_spec(qk_layernorm=has_norms,
                                 normalization="RMSNorm"),
        vocab_size=_padded_rows(config), max_sequence_length=8,
        pre_process=stage == 0, post_process=stage == pp - 1,
        position_embedding_type="rope",
        share_embeddings_and_output_weights=config["tie_word_embeddings"]))


def _head_dim(config):
    return config.get("head_dim",
                      config["hidden_size"] // config["num_attention_heads"])


def _padded_rows(config):
    return -(-config["vocab_size"] // VOCABULARY_DIVISOR) * VOCABULARY_DIVISOR


def fill(wrapped, config, checkpoint):
    """Gives every parameter of this rank its slice, in place."""
    tp = parallel_state.get_tensor_model_parallel_world_size()
    tp_rank = parallel_state.get_tensor_model_parallel_rank()
    pp = parallel_state.get_pipeline_model_parallel_world_size()
    stage = parallel_state.get_pipeline_model_parallel_rank()
    layers = config["num_hidden_layers"] // pp

    def even(tensor, dim=0):
        return tensor.chunk(tp, dim)[tp_rank]

    wanted = {}
    embedding = checkpoint["model.embed_tokens.weight"]
    if stage == 0:
        wanted["embedding.word_embeddings.weight"] = even(
            _padded(config, embedding))
    # A stage that has the embedding as well does not keep a tied head twice.
    if stage == pp - 1:
        if not (config["tie_word_embeddings"] and stage == 0):
            wanted["output_layer.weight"] = even(_padded(
                config, checkpoint.get("lm_head.weight", embedding)))
        wanted["decoder.final_layernorm.weight"] = checkpoint[
            "model.norm.weight"]
    for here in range(layers):
        of_layer = _layer(config, checkpoint, stage * layers + here, even)
        wanted |= {f"decoder.layers.{here}.{name}": value
                   for name, value in of_layer.items()}
    parameters = dict(wrapped.module.named_parameters())
    assert parameters.keys() == wanted.keys(), (
        parameters.keys() ^ wanted.keys())
    with torch.no_grad():
        for name, value in wanted.items():
            assert parameters[name].dtype == value.dtype, name
            assert parameters[name].shape == value.shape, name
            parameters[name].copy_(value)


def _padded(config, table):
    """Rows that no checkpoint has hold what must never reach an engine."""
    rows = _padded_rows(config) - table.shape[0]
    return torch.cat([table, table.new_full((rows, table.shape[1]), -123.0)])


def _layer(config, checkpoint, number, even):
    """{name in the layer: this rank's slice}."""
    hf = {name.removeprefix(f"model.layers.{number}."): value
          for name, value in checkpoint.items()
          if name.startswith(f"model.layers.{number}.")}
    values = {
        "input_layernorm.weight": hf["input_layernorm.weight"],
        "pre_mlp_layernorm.weight": hf["post_attention_layernorm.weight"],
        "self_attention.linear_proj.weight":
            even(hf["self_attn.o_proj.weight"], 1),
        "mlp.linear_fc1.weight": torch.cat([
            even(hf["mlp.gate_proj.weight"]), even(hf["mlp.up_proj.weight"])]),
        "mlp.linear_fc2.weight": even(hf["mlp.down_proj.weight"], 1)}
    for kind in ("weight", "bias"):
        if f"self_attn.q_proj.{kind}" in hf:
            values[f"self_attention.linear_qkv.{kind}"] = even(_by_groups(
                config, *(hf[f"self_attn.{x}_proj.{kind}"] for x in "qkv")))
    for x in "qk":
        if f"self_attn.{x}_norm.weight" in hf:
            values[f"self_attention.{x}_layernorm.weight"] = hf[
                f"self_attn.{x}_norm.weight"]
    return values


def _by_groups(config, q, k, v):
    """[query heads of the group, its key head, its value head], group by
    group."""
    groups = config["num_key_value_heads"]
    return torch.cat([
        part for parts in zip(q.chunk(groups), k.chunk(groups),
                              v.chunk(groups), strict=True) for part in parts])
