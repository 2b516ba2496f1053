"""Real Megatron-Core models on the CPU, built for the configuration of a
Hugging Face checkpoint and for a layout as `weft` spells it."""

import warnings

import torch
import torch.nn.functional as F

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # no Apex, no Transformer Engine
    from megatron.core import parallel_state
    from megatron.core.models.gpt.gpt_layer_specs import (
        get_gpt_decoder_block_spec)
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.transformer import multi_latent_attention
    from megatron.core.transformer.dot_product_attention import (
        DotProductAttention)
    from megatron.core.transformer.transformer_config import (
        MLATransformerConfig, TransformerConfig)

import oracle

# Core's own attention does not say that it takes keys and values of different
# widths, which latent attention passes; it has no parameters that depend on it.
_attention = DotProductAttention.__init__
DotProductAttention.__init__ = (
    lambda *args, k_channels=None, v_channels=None, **more:
    _attention(*args, **more))
for _name in ("TELinear", "TEColumnParallelLinear"):
    if not isinstance(getattr(multi_latent_attention, _name), type):
        setattr(multi_latent_attention, _name, type(_name, (), {}))


def build(config, spec):
    """The chunks of this rank; parallel_state is initialised for them."""
    m, (_, keys) = oracle.model_of(config), oracle.parse_spec(spec)
    tp, pp, vpp, cp = (keys.get(name, 1) for name in ("tp", "pp", "vpp", "cp"))
    ep = keys.get("ep", 1)
    # Core moves tied embeddings to the GPU whatever the settings say.
    torch.Tensor.cuda = lambda tensor: tensor
    torch.cuda.current_device = lambda: torch.device("cpu")
    parallel_state.initialize_model_parallel(
        tp, pp, virtual_pipeline_model_parallel_size=vpp if vpp > 1 else None,
        context_parallel_size=cp, expert_model_parallel_size=ep,
        expert_tensor_parallel_size=keys.get("etp", tp))
    settings = _settings(m, config, keys)
    stage = parallel_state.get_pipeline_model_parallel_rank()
    divisor = keys.get("vocab_divisor", 1) * tp
    chunks = []
    for chunk in range(vpp):
        vp_stage = chunk if vpp > 1 else None
        chunks.append(GPTModel(
            settings, get_gpt_decoder_block_spec(
                settings, use_transformer_engine=False,
                normalization="RMSNorm", vp_stage=vp_stage, pp_rank=stage),
            vocab_size=-(-m.V // divisor) * divisor, max_sequence_length=32,
            pre_process=stage == 0 and chunk == 0,
            post_process=stage == pp - 1 and chunk == vpp - 1,
            position_embedding_type="rope",
            rotary_base=config.get("rope_theta", 10000),
            share_embeddings_and_output_weights=m.tied, vp_stage=vp_stage))
    return chunks


def _settings(m, config, keys):
    tp, pp, vpp = (keys.get(name, 1) for name in ("tp", "pp", "vpp"))
    kind, more = TransformerConfig, {}
    if m.latent:
        x, kind = m.latent, MLATransformerConfig
        more = dict(q_lora_rank=x.q_rank or None, kv_lora_rank=x.kv_rank,
                    qk_head_dim=x.nope, qk_pos_emb_head_dim=x.rope,
                    v_head_dim=x.value, rope_type="rope",
                    rotary_base=config.get("rope_theta", 10000))
    if m.experts:
        more |= dict(
            num_moe_experts=m.experts.count,
            moe_ffn_hidden_size=m.experts.width,
            moe_router_topk=config.get("num_experts_per_tok", 2),
            moe_layer_freq=[int(mlp == "experts") for mlp in m.mlps],
            expert_model_parallel_size=keys.get("ep", 1),
            expert_tensor_parallel_size=keys.get("etp", tp),
            moe_shared_expert_intermediate_size=(
                m.experts.shared_width or None))
        if m.experts.has_correction:
            more |= dict(moe_router_score_function="sigmoid",
                         moe_router_enable_expert_bias=True,
                         moe_router_pre_softmax=False)
    return kind(
        num_layers=m.L, hidden_size=m.H, num_attention_heads=m.Hq,
        num_query_groups=m.G, kv_channels=m.D, ffn_hidden_size=m.I,
        use_cpu_initialization=True, tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        virtual_pipeline_model_parallel_size=vpp if vpp > 1 else None,
        num_layers_in_first_pipeline_stage=keys.get("first"),
        num_layers_in_last_pipeline_stage=keys.get("last"),
        account_for_embedding_in_pipeline_split=bool(
            keys.get("embedding_in_split")),
        account_for_loss_in_pipeline_split=bool(keys.get("loss_in_split")),
        normalization="RMSNorm", gated_linear_unit=True,
        activation_func=F.silu, layernorm_epsilon=config.get(
            "rms_norm_eps", 1e-6),
        add_bias_linear=m.mlp_bias, add_qkv_bias=m.qkv_bias,
        qk_layernorm=m.qk_norm or m.latent is not None,
        pipeline_dtype=torch.float32, gradient_accumulation_fusion=False,
        hidden_dropout=0.0, attention_dropout=0.0, **more)


def held(chunks):
    """{stored name: tensor} of what the chunks train and keep."""
    tensors = {}
    for i, chunk in enumerate(chunks):
        prefix = f"model{i}." if len(chunks) > 1 else ""
        tensors |= {prefix + n: p for n, p in chunk.named_parameters()}
        tensors |= {prefix + n: b for n, b in chunk.named_buffers()
                    if n.endswith(".expert_bias")}
    return tensors
