"""What a checkpoint of a decoder holds: sizes, names and shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Sequence


class _Family(NamedTuple):
    qkv_bias: bool = False  # biases on q, k and v whatever the config says
    has_bias_switches: bool = False  # attention_bias and mlp_bias count
    qk_norm: bool = False
    experts: Experts | None = None


class Experts(NamedTuple):
    """How files of a family spell a block of experts."""

    number_key: str  # of the config
    width_key: str
    block: str
    gate: str
    up: str
    down: str


_FAMILIES = {
    "llama": _Family(has_bias_switches=True),
    "mistral": _Family(has_bias_switches=True),
    "mixtral": _Family(experts=Experts(
        "num_local_experts", "intermediate_size", "block_sparse_moe", "w1",
        "w3", "w2")),
    "qwen2": _Family(qkv_bias=True),
    "qwen3": _Family(qk_norm=True),
    "qwen3_moe": _Family(qk_norm=True, experts=Experts(
        "num_experts", "moe_intermediate_size", "mlp", "gate_proj", "up_proj",
        "down_proj")),
}


@dataclass(frozen=True)
class Decoder:
    """A decoder with grouped-query attention, dense or with experts, in the
    letters of the recipes (recipes/include/*.yaml)."""

    H: int  # hidden size
    L: int  # layers
    Hq: int  # query heads
    G: int  # key/value heads: query groups
    D: int  # head dimension
    I: int  # width of the MLP  # noqa: E741
    V: int  # vocabulary, without padding
    tied: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    experts: Experts | None = None
    E: int = 0  # experts
    Im: int = 0  # width of an expert
    dense_layers: frozenset[int] = frozenset()  # of a model with experts

    @property
    def group_heads(self) -> int:
        """Query heads of one group."""
        return self.Hq // self.G

    @property
    def qkv_rows(self) -> int:
        return (self.Hq + 2 * self.G) * self.D

    def has_experts(self, layer: int) -> bool:
        return self.experts is not None and layer not in self.dense_layers

    def layer_tensors(self, layer: int,
                      experts: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """{checkpoint name behind "model.layers.{layer}.": shape}, with only
        the given experts if the layer has any."""
        q, kv = self.Hq * self.D, self.G * self.D
        shapes: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (self.H,),
            "post_attention_layernorm.weight": (self.H,),
            "self_attn.q_proj.weight": (q, self.H),
            "self_attn.k_proj.weight": (kv, self.H),
            "self_attn.v_proj.weight": (kv, self.H),
            "self_attn.o_proj.weight": (self.H, q),
        }
        if self.qkv_bias:
            shapes |= {"self_attn.q_proj.bias": (q,),
                       "self_attn.k_proj.bias": (kv,),
                       "self_attn.v_proj.bias": (kv,)}
        if self.o_bias:
            shapes["self_attn.o_proj.bias"] = (self.H,)
        if self.qk_norm:
            shapes |= {"self_attn.q_norm.weight": (self.D,),
                       "self_attn.k_norm.weight": (self.D,)}
        if not self.has_experts(layer):
            return shapes | self._mlp()
        shapes[f"{self.experts.block}.gate.weight"] = (self.E, self.H)
        for expert in experts:
            gate, up, down = self.expert_names(expert)
            shapes |= {gate: (self.Im, self.H), up: (self.Im, self.H),
                       down: (self.H, self.Im)}
        return shapes

    def expert_names(self, expert: int) -> tuple[str, str, str]:
        """The names of gate, up and down behind "model.layers.{i}."."""
        prefix = f"{self.experts.block}.experts.{expert}."
        return (f"{prefix}{self.experts.gate}.weight",
                f"{prefix}{self.experts.up}.weight",
                f"{prefix}{self.experts.down}.weight")

    def _mlp(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {
            "mlp.gate_proj.weight": (self.I, self.H),
            "mlp.up_proj.weight": (self.I, self.H),
            "mlp.down_proj.weight": (self.H, self.I)}
        if self.mlp_bias:
            shapes |= {"mlp.gate_proj.bias": (self.I,),
                       "mlp.up_proj.bias": (self.I,),
                       "mlp.down_proj.bias": (self.H,)}
        return shapes


def is_known(values: dict) -> bool:
    """Whether decoder_of takes this config (the dict of one)."""
    return values.get("model_type") in _FAMILIES


def decoder_of(hf_config: object) -> Decoder:
    """The sizes in a Hugging Face config (an object or its dict). ValueError
    if the family is unknown or a size is missing."""
    values = (hf_config if isinstance(hf_config, dict)
              else hf_config.to_dict())
    name = values.get("model_type")
    family = _FAMILIES.get(name)
    if family is None:
        raise ValueError(f'model_type "{name}" is not supported by '
                         f"weft.megatron; supported are "
                         f"{', '.join(sorted(_FAMILIES))}")
    experts = family.experts
    if experts and values.get(experts.number_key) is None:
        # transformers 5 calls it alike in all families.
        values = values | {experts.number_key: values.get("num_local_experts")}
    keys = ["hidden_size", "num_hidden_layers", "num_attention_heads",
            "intermediate_size", "vocab_size"]
    keys += [experts.number_key, experts.width_key] if experts else []
    missing = [key for key in keys if values.get(key) is None]
    if missing:
        raise ValueError(f"hf_config lacks {', '.join(missing)}")
    attention_bias = bool(values.get("attention_bias"))
    if attention_bias and family.qk_norm:
        raise ValueError(f"attention_bias=true: {name} with attention biases "
                         f"is not supported")
    heads = values["num_attention_heads"]
    return Decoder(
        H=values["hidden_size"], L=values["num_hidden_layers"], Hq=heads,
        G=values.get("num_key_value_heads") or heads,
        D=values.get("head_dim") or values["hidden_size"] // heads,
        I=values["intermediate_size"], V=values["vocab_size"],
        tied=bool(values.get("tie_word_embeddings", False)),
        qkv_bias=family.qkv_bias or (family.has_bias_switches and
                                     attention_bias),
        o_bias=family.has_bias_switches and attention_bias,
        mlp_bias=family.has_bias_switches and bool(values.get("mlp_bias")),
        qk_norm=family.qk_norm, experts=experts,
        E=values[experts.number_key] if experts else 0,
        Im=values[experts.width_key] if experts else 0,
        dense_layers=_dense_layers(values) if experts else frozenset())


def _dense_layers(values: dict) -> frozenset[int]:
    """The layers without experts of a model that has some: named in
    mlp_only_layers, or not at the end of a decoder_sparse_step."""
    step = values.get("decoder_sparse_step") or 1
    named = values.get("mlp_only_layers") or ()
    return frozenset(layer for layer in range(values["num_hidden_layers"])
                     if layer in named or (layer + 1) % step)
