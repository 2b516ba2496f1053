"""From the names of a transformers model in memory to those of its checkpoint.

transformers 5 stacks the experts of a layer in memory, and files keep them
apart. Behind "mlp.experts.":

    gate_up_proj [E, 2I, H]      {e}.gate_proj.weight [I, H]
      (gate rows, then up rows)  {e}.up_proj.weight   [I, H]
    down_proj    [E, H, I]       {e}.down_proj.weight [H, I]
"""

from __future__ import annotations

import sys
from typing import NamedTuple, Sequence

from weft.torch.windows import Window

# What wrappers put into the names of what they wrap.
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.",
             "_fsdp_wrapped_module.")


class _Stacked(NamedTuple):
    """How files spell the block and the three matrices of an expert."""

    block: str
    gate: str
    up: str
    down: str


_QWEN_STYLE = _Stacked("mlp", "gate_proj", "up_proj", "down_proj")
_MIXTRAL_STYLE = _Stacked("block_sparse_moe", "w1", "w3", "w2")

# Families whose memory differs from their files, by model_type.
_STACKED = {
    "deepseek_v2": _QWEN_STYLE,
    "deepseek_v3": _QWEN_STYLE,
    "glm4_moe": _QWEN_STYLE,
    "glm_moe_dsa": _QWEN_STYLE,
    "mixtral": _MIXTRAL_STYLE,
    "qwen2_moe": _QWEN_STYLE,
    "qwen3_moe": _QWEN_STYLE,
}

# Stacked in files too, under the names that memory has.
_STACKED_IN_FILES = {"gpt_oss"}


def plain_name(name: str) -> str:
    """The name without what torch.compile, activation checkpointing and FSDP1
    put into it."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def is_in_tables(config: object | None) -> bool:
    """Whether the family's stacks of experts are known here."""
    kind = _model_type_of(config)
    return kind in _STACKED or kind in _STACKED_IN_FILES


class CheckpointNames:
    """The rule of one model. ValueError if the model's family is known to
    rename its tensors in files, in a way that is not known here."""

    def __init__(self, config: object | None) -> None:
        self.model_type = _model_type_of(config)
        self._stacked = _STACKED.get(self.model_type)
        if (self._stacked is None and
                self.model_type not in _STACKED_IN_FILES and
                _transformers_converts(self.model_type)):
            raise ValueError(
                f'model_type "{self.model_type}" has other tensors in its '
                f"files than in memory and is not supported; describe its "
                f"tensors with weft.torch.tensors")

    def windows(self, name: str, shape: Sequence[int]) -> list[Window]:
        """The checkpoint tensors in memory tensor `name` of global `shape`.
        ValueError on stacked experts of an unknown family or shape."""
        name = plain_name(name)
        head, dot, leaf = name.rpartition(".experts.")
        is_stacked = dot and leaf in ("gate_up_proj", "down_proj", "up_proj")
        if self._stacked is None:
            if (is_stacked and len(shape) == 3 and
                    self.model_type not in _STACKED_IN_FILES):
                raise ValueError(
                    f"this stacks the experts of a layer, and how files of "
                    f'model_type "{self.model_type}" name them is not known; '
                    f"known are {', '.join(sorted(_STACKED))}, and "
                    f"weft.torch.tensors takes any names")
            return [Window.whole(name, shape)]
        if self._stacked.block != "mlp":
            name = name.replace(".mlp.", f".{self._stacked.block}.")
            head = head.removesuffix("mlp") + self._stacked.block
        if not is_stacked:
            return [Window.whole(name, shape)]
        return self._experts(head + dot, leaf, shape)

    def _experts(self, prefix: str, leaf: str,
                 shape: Sequence[int]) -> list[Window]:
        if len(shape) != 3 or leaf == "up_proj":
            raise ValueError(f"shape {tuple(shape)} is no stack of experts as "
                             f'model_type "{self.model_type}" has it')
        experts, rows, columns = (int(n) for n in shape)
        if leaf == "down_proj":
            parts = [self._stacked.down]
        else:
            parts = [self._stacked.gate, self._stacked.up]
        if rows % len(parts):
            raise ValueError(f"shape {tuple(shape)} has {rows} rows, which do "
                             f"not split into gate and up")
        height = rows // len(parts)
        return [
            Window(f"{prefix}{expert}.{part}.weight", (height, columns),
                   (0, 0), (expert, half * height, 0), (1, height, columns))
            for expert in range(experts) for half, part in enumerate(parts)]


def _model_type_of(config: object | None) -> str | None:
    if isinstance(config, dict):
        return config.get("model_type")
    return getattr(config, "model_type", None)


def _transformers_converts(model_type: str | None) -> bool:
    """Whether transformers, if the program uses it, changes the tensors of
    this family when it reads and writes files."""
    mapping = sys.modules.get("transformers.conversion_mapping")
    if model_type is None or mapping is None:
        return False
    return mapping.get_checkpoint_conversion_mapping(model_type) is not None
