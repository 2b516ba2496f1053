"""Real Megatron-Core models on the CPU, their parameters filled from known
logical tensors by plain slicing."""

import warnings

import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # no Apex, no Transformer Engine
    from megatron.core import parallel_state
    from megatron.core.models.gpt.gpt_layer_specs import (
        get_gpt_layer_local_spec)
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.transformer.transformer_config import TransformerConfig

H, D, I, V, PADDED_V = 12, 4, 10, 37, 48  # noqa: E741
E, IM = 4, 6  # experts and their width
# How files name the block of a layer's experts, and gate, up and down.
EXPERT_NAMES = {
    "mixtral": ("block_sparse_moe", "w1", "w3", "w2"),
    "qwen3_moe": ("mlp", "gate_proj", "up_proj", "down_proj"),
}
QK_NORM = ("qwen3", "qwen3_moe")
PADDING = -123.0  # what padding rows hold; must never reach a logical tensor


def hf_config(family, layers=2, heads=4, groups=2, tied=False, **more):
    config = dict(model_type=family, hidden_size=H, num_hidden_layers=layers,
                  num_attention_heads=heads, num_key_value_heads=groups,
                  head_dim=D, intermediate_size=I, vocab_size=V,
                  tie_word_embeddings=tied)
    if family == "mixtral":
        config |= dict(num_local_experts=E, intermediate_size=IM)
    if family == "qwen3_moe":
        config |= dict(num_experts=E, moe_intermediate_size=IM)
    return config | more


def logical_tensors(config):
    """{checkpoint name: random tensor}, the same in every process."""
    torch.manual_seed(11)
    q = config["num_attention_heads"] * D
    kv = config["num_key_value_heads"] * D
    shapes = {"model.embed_tokens.weight": (V, H), "model.norm.weight": (H,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (V, H)
    for i in range(config["num_hidden_layers"]):
        layer = {"input_layernorm.weight": (H,),
                 "post_attention_layernorm.weight": (H,),
                 "self_attn.q_proj.weight": (q, H),
                 "self_attn.k_proj.weight": (kv, H),
                 "self_attn.v_proj.weight": (kv, H),
                 "self_attn.o_proj.weight": (H, q)}
        if config["model_type"] in EXPERT_NAMES:
            block, gate, up, down = EXPERT_NAMES[config["model_type"]]
            layer[f"{block}.gate.weight"] = (E, H)
            for e in range(E):
                layer |= {f"{block}.experts.{e}.{gate}.weight": (IM, H),
                          f"{block}.experts.{e}.{up}.weight": (IM, H),
                          f"{block}.experts.{e}.{down}.weight": (H, IM)}
        else:
            layer |= {"mlp.gate_proj.weight": (I, H),
                      "mlp.up_proj.weight": (I, H),
                      "mlp.down_proj.weight": (H, I)}
        if config["model_type"] == "qwen2" or config.get("attention_bias"):
            layer |= {"self_attn.q_proj.bias": (q,),
                      "self_attn.k_proj.bias": (kv,),
                      "self_attn.v_proj.bias": (kv,)}
        if config.get("attention_bias"):
            layer["self_attn.o_proj.bias"] = (H,)
        if config.get("mlp_bias"):
            layer |= {"mlp.gate_proj.bias": (I,), "mlp.up_proj.bias": (I,),
                      "mlp.down_proj.bias": (H,)}
        if config["model_type"] in QK_NORM:
            layer |= {"self_attn.q_norm.weight": (D,),
                      "self_attn.k_norm.weight": (D,)}
        shapes |= {f"model.layers.{i}.{n}": s for n, s in layer.items()}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def build(config, tp, pp, vpp=1, cp=1, first=None, ep=1, etp=None):
    """The chunks of this rank; parallel_state is initialised for them."""
    # Core moves tied embeddings to the GPU whatever the settings say; this
    # runs in a rank's own process, so nobody else sees the change.
    torch.Tensor.cuda = lambda tensor: tensor
    parallel_state.initialize_model_parallel(
        tp, pp, virtual_pipeline_model_parallel_size=vpp if vpp > 1 else None,
        context_parallel_size=cp, expert_model_parallel_size=ep,
        expert_tensor_parallel_size=etp)
    # The settings say nothing of cp: core's own attention refuses it, and the
    # weights do not depend on it.
    family = config["model_type"]
    biased = bool(config.get("attention_bias"))
    experts = {} if family not in EXPERT_NAMES else dict(
        num_moe_experts=E, moe_ffn_hidden_size=IM, moe_router_topk=2,
        expert_model_parallel_size=ep,
        expert_tensor_parallel_size=tp if etp is None else etp)
    settings = TransformerConfig(
        num_layers=config["num_hidden_layers"], hidden_size=H,
        num_attention_heads=config["num_attention_heads"],
        num_query_groups=config["num_key_value_heads"], kv_channels=D,
        ffn_hidden_size=I, use_cpu_initialization=True,
        tensor_model_parallel_size=tp, pipeline_model_parallel_size=pp,
        virtual_pipeline_model_parallel_size=vpp if vpp > 1 else None,
        num_layers_in_first_pipeline_stage=first,
        normalization="RMSNorm", gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=biased, add_qkv_bias=family == "qwen2" or biased,
        qk_layernorm=family in QK_NORM, pipeline_dtype=torch.float32,
        gradient_accumulation_fusion=False, **experts)
    stage = parallel_state.get_pipeline_model_parallel_rank()
    chunks = []
    for chunk in range(vpp):
        is_first = stage == 0 and chunk == 0
        is_last = stage == pp - 1 and chunk == vpp - 1
        chunks.append(GPTModel(
            settings, get_gpt_layer_local_spec(
                num_experts=E if experts else None, moe_grouped_gemm=False,
                qk_layernorm=family in QK_NORM, normalization="RMSNorm"),
            vocab_size=PADDED_V, max_sequence_length=8, pre_process=is_first,
            post_process=is_last, position_embedding_type="rope",
            share_embeddings_and_output_weights=config["tie_word_embeddings"],
            vp_stage=chunk if vpp > 1 else None))
    return chunks


def layers_of(config, pp, stage, vpp=1, chunk=0, first=None):
    """Global numbers of the layers of a chunk, by the rules and not by what
    the modules say."""
    layers = config["num_hidden_layers"]
    if first is not None:
        rest = (layers - first) // (pp - 1)
        begin = 0 if stage == 0 else first + (stage - 1) * rest
        return range(begin, begin + (first if stage == 0 else rest))
    count = layers // pp // vpp
    begin = chunk * (layers // vpp) + stage * count
    return range(begin, begin + count)


def fill(chunk, config, logical, layers, tp, tp_rank):
    """Gives every parameter of a chunk its slice; asserts that all were."""
    parameters = dict(chunk.named_parameters())
    done = set()

    def put(name, value):
        if name in parameters:
            with torch.no_grad():
                assert parameters[name].shape == value.shape, name
                parameters[name].copy_(value)
            done.add(name)

    def even(tensor, dim=0):
        return tensor.chunk(tp, dim)[tp_rank]

    def padded(tensor):
        rows = torch.full((PADDED_V - V, H), PADDING)
        return even(torch.cat([tensor, rows]))

    embedding = logical["model.embed_tokens.weight"]
    put("embedding.word_embeddings.weight", padded(embedding))
    put("output_layer.weight",
        padded(logical.get("lm_head.weight", embedding)))
    put("decoder.final_layernorm.weight", logical["model.norm.weight"])
    for here, layer in enumerate(layers):
        hf = {n.removeprefix(f"model.layers.{layer}."): t
              for n, t in logical.items()
              if n.startswith(f"model.layers.{layer}.")}
        to = f"decoder.layers.{here}."
        put(to + "input_layernorm.weight", hf["input_layernorm.weight"])
        put(to + "pre_mlp_layernorm.weight",
            hf["post_attention_layernorm.weight"])
        for x in "qk":
            if f"self_attn.{x}_norm.weight" in hf:
                put(to + f"self_attention.{x}_layernorm.weight",
                    hf[f"self_attn.{x}_norm.weight"])
        for kind in ("weight", "bias"):
            if f"self_attn.q_proj.{kind}" in hf:
                put(to + f"self_attention.linear_qkv.{kind}",
                    even(_by_groups(config, *(hf[f"self_attn.{x}_proj.{kind}"]
                                              for x in "qkv"))))
            if f"mlp.gate_proj.{kind}" in hf:
                put(to + f"mlp.linear_fc1.{kind}",
                    torch.cat([even(hf[f"mlp.{x}_proj.{kind}"])
                               for x in ("gate", "up")]))
        put(to + "self_attention.linear_proj.weight",
            even(hf["self_attn.o_proj.weight"], 1))
        if config["model_type"] in EXPERT_NAMES:
            _put_experts(put, to, hf, EXPERT_NAMES[config["model_type"]])
        else:
            put(to + "mlp.linear_fc2.weight",
                even(hf["mlp.down_proj.weight"], 1))
        if "self_attn.o_proj.bias" in hf:
            put(to + "self_attention.linear_proj.bias",
                hf["self_attn.o_proj.bias"])
            put(to + "mlp.linear_fc2.bias", hf["mlp.down_proj.bias"])
    assert done == set(parameters), set(parameters) - done


def _put_experts(put, to, hf, names):
    """Expert parallelism deals experts out in equal runs; the tensor
    parallelism of experts cuts each."""
    block, gate, up, down = names
    ep = parallel_state.get_expert_model_parallel_world_size()
    ep_rank = parallel_state.get_expert_model_parallel_rank()
    etp = parallel_state.get_expert_tensor_parallel_world_size()
    etp_rank = parallel_state.get_expert_tensor_parallel_rank()
    put(to + "mlp.router.weight", hf[f"{block}.gate.weight"])
    for here in range(E // ep):
        expert = f"{block}.experts.{ep_rank * (E // ep) + here}."
        local = f"{to}mlp.experts.local_experts.{here}."
        put(local + "linear_fc1.weight",
            torch.cat([hf[f"{expert}{x}.weight"].chunk(etp)[etp_rank]
                       for x in (gate, up)]))
        put(local + "linear_fc2.weight",
            hf[f"{expert}{down}.weight"].chunk(etp, 1)[etp_rank])


def _by_groups(config, q, k, v):
    groups = config["num_key_value_heads"]
    rows = []
    for parts in zip(q.chunk(groups), k.chunk(groups), v.chunk(groups),
                     strict=True):
        rows += parts
    return torch.cat(rows)
