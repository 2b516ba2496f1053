"""Settings of a Megatron-Core model that change what its values mean and not
only their shapes: where they are other than the checkpoint's, the bytes fit and
are wrong."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from weft.torch.source import Faults


class Meaning(NamedTuple):
    """What the checkpoint says. `layers`: None where names tell them."""

    tied: bool
    heads: int | None
    groups: int | None
    is_zero_centred: bool  # norms, in the checkpoint too
    layers: int | None = None


def check_settings(chunk: nn.Module, prefix: str, meaning: Meaning,
                   faults: Faults) -> None:
    """Adds a fault for each setting of the chunk that contradicts `meaning`."""
    config = chunk.config
    is_centred = bool(getattr(config, "layernorm_zero_centered_gamma", False))
    if is_centred != meaning.is_zero_centred:
        faults.add(f"{prefix}config has layernorm_zero_centered_gamma="
                   f"{is_centred}, which is not how the checkpoint keeps its "
                   f"norms: they differ by 1, which is arithmetic and not a "
                   f"layout")
    if meaning.layers is not None and config.num_layers != meaning.layers:
        faults.add(f"{prefix}config has num_layers={config.num_layers} but "
                   f"hf_config has num_hidden_layers={meaning.layers}")
    shares = bool(getattr(chunk, "share_embeddings_and_output_weights", False))
    if shares != meaning.tied:
        faults.add(f"{prefix}share_embeddings_and_output_weights is {shares} "
                   f"but hf_config has tie_word_embeddings={meaning.tied}")
    if getattr(config, "moe_mlp_glu_interleave_size", None):
        faults.add(f"{prefix}config has moe_mlp_glu_interleave_size, which "
                   f"mixes gate and up")
    if not getattr(config, "multi_latent_attention", False):
        _check_attention(config, prefix, meaning, faults)


def _check_attention(config: object, prefix: str, meaning: Meaning,
                     faults: Faults) -> None:
    groups = getattr(config, "num_query_groups", None)
    groups = groups or config.num_attention_heads
    found = config.num_attention_heads, groups
    if meaning.heads is not None and found != (meaning.heads, meaning.groups):
        faults.add(f"{prefix}config has {found[0]} heads in {groups} query "
                   f"groups but hf_config has {meaning.heads} in "
                   f"{meaning.groups}")
    if getattr(config, "rotary_interleaved", False):
        faults.add(f"{prefix}config has rotary_interleaved, so the rows of its "
                   f"queries and keys are in another order than the "
                   f"checkpoint's")
