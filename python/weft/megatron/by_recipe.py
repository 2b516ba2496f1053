"""Families of which only the recipes know how Megatron-Core stores them: the
rank's own parameters, matched with a recipe's rank by name and shape."""

from __future__ import annotations

from dataclasses import replace
from typing import Mapping

import torch
from torch.distributed.tensor import DTensor

from weft.errors import WeftError
from weft.layout import Fragment, Placement
from weft.plan import recipe_placement
from weft.torch.source import (DTYPE_NAMES, Faults, UnsupportedTensors,
                               storage_fault, stored_tensor)

# Families whose norms hold the checkpoint's weights as they are although
# Megatron calls them zero-centred: the checkpoint's are so too.
ZERO_CENTRED = ("Gemma2ForCausalLM", "Gemma3ForCausalLM",
                "Qwen3NextForCausalLM")
# Families whose head is the embedding where the config does not say.
TIED_UNLESS_TOLD = ("Gemma2ForCausalLM", "Gemma3ForCausalLM")


def add_by_recipe(placement: Placement, live: Mapping[str, torch.Tensor],
                  hf_config: dict, settings: object, vocab_rows: int | None,
                  faults: Faults) -> dict[str, torch.Tensor]:
    """Adds the live tensors (of all chunks, as stored names) to `placement`,
    whose degrees are known, and returns them in its order. `vocab_rows`: those
    of this rank's table, None if it has none. What the recipe asks for and the
    rank lacks, and the reverse, are faults."""
    spec = _spec(placement, live, settings, vocab_rows)
    try:
        recipe = recipe_placement(hf_config, spec, placement.rank)
    except WeftError as error:
        raise UnsupportedTensors(str(error)) from None
    wanted = {stored.name: stored for stored in recipe.stored}
    for name in sorted(live.keys() - wanted.keys()):
        faults.add(f'"{name}" of shape {tuple(live[name].shape)} has no rule '
                   f"in the recipe for {spec}")
    for name in sorted(wanted.keys() - live.keys()):
        faults.add(f'the model has no "{name}", which the recipe for {spec} '
                   f"asks for")
    held = {}
    for name, stored in wanted.items():
        if name not in live:
            continue
        tensor = live[name]
        fault = (f'"{name}" is a DTensor; Megatron-FSDP is not supported'
                 if isinstance(tensor, DTensor) else
                 storage_fault(name, tensor))
        if fault is None and tuple(tensor.shape) != tuple(stored.shape):
            fault = (f'"{name}" has shape {tuple(tensor.shape)} but the '
                     f"recipe for {spec} says {tuple(stored.shape)}")
        if fault is not None:
            faults.add(fault)
            continue
        try:
            fragments = [
                _renumbered(placement, recipe, fragment,
                            DTYPE_NAMES[tensor.dtype])
                for fragment in stored.fragments]
        except ValueError as error:
            faults.add(f'"{name}": {error}')
            continue
        # What a recipe calls zeros is padding, which training may fill.
        placement.stored.append(stored_tensor(name, tensor, fragments))
        held[name] = tensor
    return held


def _renumbered(placement: Placement, recipe: Placement, fragment: Fragment,
                dtype: str) -> Fragment:
    """The fragment with the placement's number of its logical tensor, which
    has the dtype that this trainer keeps it in."""
    logical = recipe.tensors[fragment.tensor]
    return replace(fragment, tensor=placement.tensor(logical.name, dtype,
                                                     logical.shape))


def _spec(placement: Placement, live: Mapping[str, torch.Tensor],
          settings: object, vocab_rows: int | None) -> str:
    """The layout in the words of recipes: degrees, and what names and
    settings tell of this rank."""
    if getattr(settings, "pipeline_model_parallel_layout", None) is not None:
        raise UnsupportedTensors("pipeline_model_parallel_layout is set, which "
                                 "is not supported for this family")
    keys = []
    for key, setting in (("first", "num_layers_in_first_pipeline_stage"),
                         ("last", "num_layers_in_last_pipeline_stage")):
        count = getattr(settings, setting, None)
        if count is not None:
            keys.append(f"{key}={count}")
    for key in ("embedding", "loss"):
        if getattr(settings, f"account_for_{key}_in_pipeline_split", False):
            keys.append(f"{key}_in_split=1")
    # A stage without a table need not know how far the others pad theirs.
    keys.append(f"vocab_divisor={vocab_rows or 1}")
    fused_norms = any(".layer_norm_weight" in name for name in live)
    if not fused_norms:
        keys.append("impl=local")
    if any(".local_experts." in name for name in live):
        keys.append("experts=sequential")
    if any(".linear_qkv_down_proj." in name for name in live):
        keys.append("mla=fused")
    framework, _, degrees = placement.layout_spec.partition(":")
    given = ",".join(filter(None, [degrees, *keys]))
    return framework + (":" + given if given else "")
