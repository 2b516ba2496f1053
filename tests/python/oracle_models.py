"""What the files of each architecture hold: sizes, names and shapes, written
from the configurations and modules of transformers. Letters are those of the
papers; a layer is a mixer (attention or its like) and an MLP, either of which
a layer of Nemotron-H may lack."""

from typing import NamedTuple


class Experts(NamedTuple):
    """The experts of a layer, and how files spell them."""
    count: int
    width: int
    block: str = "mlp"
    gate: str = "gate_proj"  # empty: an expert is up and down alone
    up: str = "up_proj"
    down: str = "down_proj"
    shared: str = ""  # the name of the shared expert; empty: there is none
    shared_width: int = 0
    has_shared_gate: bool = False
    has_correction: bool = False  # of scores: a bias in float32
    is_packed: bool = False  # one tensor of all experts, transposed: GPT-OSS
    latent: int = 0  # experts work in a space of this size; 0: in that of H


class Latent(NamedTuple):
    """Multi-head latent attention, and the indexer of its sparse form."""
    q_rank: int  # 0: queries are not compressed
    kv_rank: int
    nope: int
    rope: int
    value: int
    index_heads: int = 0
    index_width: int = 0
    indexers: frozenset = frozenset()  # the layers that have one


class Delta(NamedTuple):
    """Gated delta nets of Qwen3-Next."""
    key_heads: int
    value_heads: int
    key_width: int
    value_width: int
    kernel: int

    @property
    def keys(self):
        return self.key_heads * self.key_width

    @property
    def values(self):
        return self.value_heads * self.value_width


class Mamba(NamedTuple):
    """Mamba-2 mixers of Nemotron-H."""
    heads: int
    head_width: int
    groups: int
    state: int
    kernel: int
    conv_bias: bool
    bias: bool

    @property
    def inner(self):
        return self.heads * self.head_width

    @property
    def shared_state(self):
        return self.groups * self.state


class Model(NamedTuple):
    """The sizes of a decoder, under the names of the papers."""
    family: str
    H: int
    L: int
    Hq: int
    G: int
    D: int
    I: int
    V: int
    tied: bool
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    experts: Experts | None = None
    latent: Latent | None = None
    delta: Delta | None = None
    mamba: Mamba | None = None
    mixers: tuple = ()  # of each layer: gqa, latent, delta, mamba or nothing
    mlps: tuple = ()  # of each layer: dense, experts, plain or nothing
    groups: int = 1  # of experts, which a router chooses first
    mtp: int = 0  # layers after the last that predict further tokens

    @property
    def at(self):
        return "backbone." if self.family == "nemotron_h" else "model."

    @property
    def embedding(self):
        return self.at + ("embeddings" if self.family == "nemotron_h" else
                          "embed_tokens") + ".weight"

    @property
    def last_norm(self):
        return self.at + ("norm_f" if self.family == "nemotron_h" else
                          "norm") + ".weight"

    def has_experts(self, layer):
        return self.mlps[layer] == "experts"

    @property
    def has_dense_layer(self):
        return "dense" in self.mlps or "plain" in self.mlps

    def indexes(self, layer):
        return self.latent is not None and layer in self.latent.indexers


_FAMILIES = {
    "LlamaForCausalLM": "llama", "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3",
    "MixtralForCausalLM": "mixtral", "Qwen2MoeForCausalLM": "qwen2_moe",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "DeepseekV3ForCausalLM": "deepseek_v3",
    "DeepseekV2ForCausalLM": "deepseek_v2",
    "Glm4MoeForCausalLM": "glm4_moe",
    "GlmMoeDsaForCausalLM": "glm_moe_dsa", "GptOssForCausalLM": "gpt_oss",
    "NemotronHForCausalLM": "nemotron_h",
    "Qwen3NextForCausalLM": "qwen3_next", "Phi3ForCausalLM": "phi3",
    "Gemma2ForCausalLM": "gemma2", "Gemma3ForCausalLM": "gemma3",
}
GEMMA = ("gemma2", "gemma3")
LATENT = ("deepseek_v2", "deepseek_v3", "glm_moe_dsa")


def model_of(config):
    family = _FAMILIES[config["architectures"][0]]
    heads = config["num_attention_heads"]
    layers = (len(_pattern(config)) if family == "nemotron_h" else
              config["num_hidden_layers"])
    attention_bias = bool(config.get("attention_bias",
                                     family == "gpt_oss"))
    m = Model(
        family=family, H=config["hidden_size"], L=layers, Hq=heads,
        G=config.get("num_key_value_heads", heads),
        D=config.get("head_dim") or config["hidden_size"] // heads,
        I=config.get("intermediate_size", 0), V=config["vocab_size"],
        # Gemma's configurations say nothing where the head is tied.
        tied=bool(config.get("tie_word_embeddings", family in GEMMA)),
        qkv_bias=(family == "qwen2" or
                  family == "qwen2_moe" and config.get("qkv_bias", True) or
                  family in ("llama", "glm4_moe", "gpt_oss") and
                  attention_bias),
        o_bias=family in ("llama", "gpt_oss") and attention_bias,
        mlp_bias=family == "llama" and bool(config.get("mlp_bias", False)),
        qk_norm=(family in ("qwen3", "qwen3_moe", "qwen3_next", "gemma3") or
                 family == "glm4_moe" and config.get("use_qk_norm", False)),
        experts=_experts_of(family, config), latent=_latent_of(family, config),
        delta=_delta_of(family, config), mamba=_mamba_of(family, config),
        groups=config.get("n_group") or 1,
        mtp=(config.get("num_nextn_predict_layers") or 0
             if family in ("deepseek_v3", "glm4_moe", "glm_moe_dsa") else 0))
    return m._replace(mixers=_mixers(m, config), mlps=_mlps(m, config))


def _experts_of(family, config):
    get = config.get
    if family == "mixtral":
        return Experts(config["num_local_experts"],
                       config["intermediate_size"], "block_sparse_moe", "w1",
                       "w3", "w2")
    if family == "gpt_oss":
        return Experts(config["num_local_experts"],
                       config["intermediate_size"], is_packed=True)
    if family in ("qwen2_moe", "qwen3_moe", "qwen3_next"):
        count = get("num_experts") or config["num_local_experts"]
        if family == "qwen3_moe":
            return Experts(count, config["moe_intermediate_size"])
        return Experts(count, config["moe_intermediate_size"],
                       shared="shared_expert", has_shared_gate=True,
                       shared_width=config["shared_expert_intermediate_size"])
    width = get("moe_intermediate_size")
    if family in LATENT or family == "glm4_moe":
        shared = get("n_shared_experts") or 0
        count = get("n_routed_experts") or config["num_local_experts"]
        return Experts(count, width,
                       shared="shared_experts" if shared else "",
                       shared_width=width * shared,
                       has_correction=family != "deepseek_v2")
    if family == "nemotron_h" and "E" in _pattern(config):
        return Experts(config["n_routed_experts"], width, block="mixer",
                       gate="", shared="shared_experts",
                       shared_width=config[
                           "moe_shared_expert_intermediate_size"],
                       has_correction=True,
                       latent=get("moe_latent_size") or 0)
    return None


def _latent_of(family, config):
    if family not in LATENT:
        return None
    latent = Latent(config.get("q_lora_rank") or 0, config["kv_lora_rank"],
                    config["qk_nope_head_dim"], config["qk_rope_head_dim"],
                    config["v_head_dim"])
    if family != "glm_moe_dsa":
        return latent
    frequency = config.get("index_topk_freq", 1)
    offset = config.get("index_skip_topk_offset", 2)
    count = config["num_hidden_layers"]
    if "indexer_types" in config:
        owners = {i for i, kind in enumerate(config["indexer_types"])
                  if kind == "full"}
    else:
        owners = {i for i in range(count)
                  if i < offset or (i - offset + 1) % frequency == 0}
    predicting = config.get("num_nextn_predict_layers") or 0
    return latent._replace(
        index_heads=config["index_n_heads"],
        index_width=config["index_head_dim"],
        indexers=frozenset(owners | set(range(count, count + predicting))))


def _delta_of(family, config):
    if family != "qwen3_next":
        return None
    return Delta(*(config[f"linear_{name}"] for name in (
        "num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim",
        "conv_kernel_dim")))


def _mamba_of(family, config):
    if family != "nemotron_h":
        return None
    return Mamba(config["mamba_num_heads"], config["mamba_head_dim"],
                 config["n_groups"], config["ssm_state_size"],
                 config["conv_kernel"], config.get("use_conv_bias", True),
                 config.get("use_bias", False))


_BLOCK_LETTERS = {"linear_attention": "M", "mamba": "M", "moe": "E",
                  "full_attention": "*", "attention": "*", "mlp": "-"}


def _pattern(config):
    """A letter a layer, also where the configuration has words for them."""
    if "hybrid_override_pattern" in config:
        return config["hybrid_override_pattern"]
    return "".join(_BLOCK_LETTERS[block]
                   for block in config["layers_block_type"])


def _mixers(m, config):
    if m.family == "nemotron_h":
        return tuple({"M": "mamba", "*": "gqa"}.get(letter, "")
                     for letter in _pattern(config))
    if m.latent:
        return ("latent",) * m.L
    if m.family != "qwen3_next":
        return ("gqa",) * m.L
    kinds = config.get("layer_types")
    if kinds is None:  # every fourth layer attends in full
        every = config.get("full_attention_interval", 4)
        kinds = ["linear_attention" if (i + 1) % every else "full_attention"
                 for i in range(m.L)]
    return tuple({"linear_attention": "delta",
                  "full_attention": "gqa"}[kind] for kind in kinds)


def _mlps(m, config):
    if m.family == "nemotron_h":
        return tuple({"E": "experts", "-": "plain"}.get(letter, "")
                     for letter in _pattern(config))
    if m.experts is None:
        return ("dense",) * m.L
    if m.family in ("mixtral", "gpt_oss"):
        return ("experts",) * m.L
    if m.family in ("qwen2_moe", "qwen3_moe", "qwen3_next"):
        step = config.get("decoder_sparse_step", 1)
        named = config.get("mlp_only_layers") or ()
        return tuple("dense" if i in named or (i + 1) % step else "experts"
                     for i in range(m.L))
    if "mlp_layer_types" in config:
        return tuple({"dense": "dense", "sparse": "experts"}[kind]
                     for kind in config["mlp_layer_types"])
    first = config.get("first_k_dense_replace", 0)
    every = config.get("moe_layer_freq", 1)
    return tuple("dense" if i < first or i % every else "experts"
                 for i in range(m.L))


# ---- shapes ----------------------------------------------------------------


def logical_shapes(config, is_predicting=True):
    """{checkpoint name: shape}, in no order. Files may lack the layers that
    predict further tokens whatever the configuration says."""
    m = model_of(config)
    if not is_predicting:
        m = m._replace(mtp=0)
    shapes = {m.embedding: (m.V, m.H), m.last_norm: (m.H,)}
    if not m.tied:
        shapes["lm_head.weight"] = (m.V, m.H)
    for i in range(m.L):
        shapes |= {f"{m.at}layers.{i}.{n}": s
                   for n, s in layer_shapes(m, i).items()}
    for i in range(m.L, m.L + m.mtp):
        shapes |= {f"{m.at}layers.{i}.{n}": s
                   for n, s in _mtp_shapes(m, i).items()}
    return shapes


def dtype_in_file(name):
    """The dtype of a tensor that files keep wide whatever the rest is in, or
    None."""
    return "F32" if name.endswith((".e_score_correction_bias",
                                   ".mixer.A_log")) else None


def layer_shapes(m, i):
    """{name behind the layer's prefix: shape}."""
    mixer, mlp = m.mixers[i], m.mlps[i]
    shapes = {}
    if m.family == "nemotron_h":
        shapes["norm.weight"] = (m.H,)
    else:
        norms = ["input_layernorm", "post_attention_layernorm"]
        if m.family in GEMMA:
            norms += ["pre_feedforward_layernorm",
                      "post_feedforward_layernorm"]
        shapes |= {f"{norm}.weight": (m.H,) for norm in norms}
    if mixer:
        shapes |= {"gqa": _gqa, "latent": _latent, "delta": _delta,
                   "mamba": _mamba}[mixer](m, i)
    if mlp == "experts":
        shapes |= _expert_shapes(m)
    elif mlp == "plain":
        shapes |= {"mixer.up_proj.weight": (m.I, m.H),
                   "mixer.down_proj.weight": (m.H, m.I)}
    elif mlp == "dense" and m.family == "phi3":
        shapes |= {"mlp.gate_up_proj.weight": (2 * m.I, m.H),
                   "mlp.down_proj.weight": (m.H, m.I)}
    elif mlp == "dense":
        shapes |= gated("mlp.", m.H, m.I)
        if m.mlp_bias:
            shapes |= {"mlp.gate_proj.bias": (m.I,),
                       "mlp.up_proj.bias": (m.I,),
                       "mlp.down_proj.bias": (m.H,)}
    return shapes


def _mtp_shapes(m, i):
    """A layer with experts and what joins it to the last one."""
    like = m._replace(mixers=(m.mixers[0],) * (i + 1),
                      mlps=("experts",) * (i + 1))
    return layer_shapes(like, i) | {
        "enorm.weight": (m.H,), "hnorm.weight": (m.H,),
        "eh_proj.weight": (m.H, 2 * m.H), "shared_head.norm.weight": (m.H,),
        "embed_tokens.weight": (m.V, m.H), "shared_head.head.weight":
            (m.V, m.H)}


def gated(prefix, hidden, width, names=("gate_proj", "up_proj", "down_proj")):
    gate, up, down = names
    shapes = {f"{prefix}{up}.weight": (width, hidden),
              f"{prefix}{down}.weight": (hidden, width)}
    if gate:
        shapes[f"{prefix}{gate}.weight"] = (width, hidden)
    return shapes


def _gqa(m, i):
    at = "mixer." if m.family == "nemotron_h" else "self_attn."
    q, kv = m.Hq * m.D, m.G * m.D
    if m.family == "phi3":
        return {at + "qkv_proj.weight": (q + 2 * kv, m.H),
                at + "o_proj.weight": (m.H, q)}
    # A gate beside each query head: [query; gate] of a head after the other.
    q_rows = 2 * q if m.family == "qwen3_next" else q
    shapes = {at + "q_proj.weight": (q_rows, m.H),
              at + "k_proj.weight": (kv, m.H),
              at + "v_proj.weight": (kv, m.H), at + "o_proj.weight": (m.H, q)}
    if m.qkv_bias:
        shapes |= {at + "q_proj.bias": (q,), at + "k_proj.bias": (kv,),
                   at + "v_proj.bias": (kv,)}
    if m.o_bias:
        shapes[at + "o_proj.bias"] = (m.H,)
    if m.qk_norm:
        shapes |= {at + "q_norm.weight": (m.D,), at + "k_norm.weight": (m.D,)}
    if m.family == "gpt_oss":
        shapes[at + "sinks"] = (m.Hq,)
    return shapes


def _latent(m, i):
    x, at = m.latent, "self_attn."
    shapes = {
        at + "kv_a_proj_with_mqa.weight": (x.kv_rank + x.rope, m.H),
        at + "kv_a_layernorm.weight": (x.kv_rank,),
        at + "kv_b_proj.weight": (m.Hq * (x.nope + x.value), x.kv_rank),
        at + "o_proj.weight": (m.H, m.Hq * x.value)}
    q_rows = m.Hq * (x.nope + x.rope)
    if x.q_rank:
        shapes |= {at + "q_a_proj.weight": (x.q_rank, m.H),
                   at + "q_a_layernorm.weight": (x.q_rank,),
                   at + "q_b_proj.weight": (q_rows, x.q_rank)}
    else:
        shapes[at + "q_proj.weight"] = (q_rows, m.H)
    if m.indexes(i):
        at += "indexer."
        shapes |= {
            at + "wq_b.weight": (x.index_heads * x.index_width, x.q_rank),
            at + "wk.weight": (x.index_width, m.H),
            at + "k_norm.weight": (x.index_width,),
            at + "k_norm.bias": (x.index_width,),
            at + "weights_proj.weight": (x.index_heads, m.H)}
    return shapes


def _delta(m, i):
    x, at = m.delta, "linear_attn."
    return {
        at + "in_proj_qkvz.weight": (2 * x.keys + 2 * x.values, m.H),
        at + "in_proj_ba.weight": (2 * x.value_heads, m.H),
        at + "conv1d.weight": (2 * x.keys + x.values, 1, x.kernel),
        at + "dt_bias": (x.value_heads,), at + "A_log": (x.value_heads,),
        at + "norm.weight": (x.value_width,),
        at + "out_proj.weight": (m.H, x.values)}


def _mamba(m, i):
    x, at = m.mamba, "mixer."
    convolved = x.inner + 2 * x.shared_state
    shapes = {
        at + "in_proj.weight": (x.inner + convolved + x.heads, m.H),
        at + "conv1d.weight": (convolved, 1, x.kernel),
        at + "A_log": (x.heads,), at + "D": (x.heads,),
        at + "dt_bias": (x.heads,), at + "norm.weight": (x.inner,),
        at + "out_proj.weight": (m.H, x.inner)}
    if x.conv_bias:
        shapes[at + "conv1d.bias"] = (convolved,)
    if x.bias:
        shapes |= {at + "in_proj.bias": (x.inner + convolved + x.heads,),
                   at + "out_proj.bias": (m.H,)}
    return shapes


def _expert_shapes(m):
    x, at = m.experts, f"{m.experts.block}."
    if x.is_packed:
        return {at + "router.weight": (x.count, m.H),
                at + "router.bias": (x.count,),
                at + "experts.gate_up_proj": (x.count, m.H, 2 * x.width),
                at + "experts.gate_up_proj_bias": (x.count, 2 * x.width),
                at + "experts.down_proj": (x.count, x.width, m.H),
                at + "experts.down_proj_bias": (x.count, m.H)}
    shapes = {at + "gate.weight": (x.count, m.H)}
    if x.has_correction:
        shapes[at + "gate.e_score_correction_bias"] = (x.count,)
    for e in range(x.count):
        shapes |= gated(f"{at}experts.{e}.", x.latent or m.H, x.width,
                        (x.gate, x.up, x.down))
    if x.shared:
        names = (x.gate and "gate_proj", "up_proj", "down_proj")
        shapes |= gated(f"{at}{x.shared}.", m.H, x.shared_width, names)
        if x.has_shared_gate:
            shapes[f"{at}{x.shared}_gate.weight"] = (1, m.H)
    if x.latent:
        shapes |= {at + "fc1_latent_proj.weight": (x.latent, m.H),
                   at + "fc2_latent_proj.weight": (m.H, x.latent)}
    return shapes
