"""Sources from the model chunks of a Megatron-Core rank."""

from __future__ import annotations

from typing import Callable, Iterator, Sequence

import torch
from megatron.core import parallel_state
from torch import nn
from torch.distributed.tensor import DTensor

from weft.layout import Placement
from weft.megatron import rules
from weft.megatron.by_recipe import TIED_UNLESS_TOLD, ZERO_CENTRED, add_by_recipe
from weft.megatron.family import Decoder, decoder_of, is_known
from weft.megatron.settings import Meaning, check_settings
from weft.torch.modules import local_tensor, published_tensors
from weft.torch.source import (DTYPE_NAMES, Faults, Source, UnsupportedTensors,
                               storage_fault, stored_tensor)
from weft.torch.windows import add_fragments


def source(model_chunks: nn.Module | Sequence[nn.Module],
           hf_config: object) -> Source:
    """What this rank of a Megatron-Core training holds, under Hugging Face
    checkpoint names.

    `model_chunks`: the GPTModels of this rank, one a virtual pipeline stage,
    bare or in Megatron's wrappers. `hf_config`: the config of the checkpoint
    (an object of transformers or its dict) of Llama, Mistral, Qwen2, Qwen3,
    Qwen3-MoE, Mixtral, or of another family that has a recipe for Megatron
    (DeepSeek, GLM, GPT-OSS, ...). With several chunks stored names begin with
    "model{chunk}.".

    Raises UnsupportedTensors with all faults at once: a parameter that no rule
    knows or whose shape is not what the rules say, one that hf_config asks for
    and the model lacks, a model whose settings contradict hf_config.
    parallel_state must be initialised. It communicates with nobody.
    """
    if not parallel_state.model_parallel_is_initialized():
        raise UnsupportedTensors("megatron.core.parallel_state is not "
                                 "initialised, so this rank's place is unknown")
    chunks = [_unwrap(chunk) for chunk in (
        [model_chunks] if isinstance(model_chunks, nn.Module)
        else model_chunks)]
    faults = Faults()
    placement = Placement(*_position(len(chunks)))
    values = (hf_config if isinstance(hf_config, dict)
              else hf_config.to_dict())
    held: dict[str, torch.Tensor] = {}
    if is_known(values):
        try:
            model = decoder_of(values)
        except ValueError as error:
            raise UnsupportedTensors(str(error)) from None
        at, deal = _cuts()
        for chunk, prefix in _with_prefixes(chunks):
            check_settings(chunk, prefix, Meaning(
                model.tied, model.Hq, model.G, is_zero_centred=False,
                layers=model.L), faults)
            _add_chunk(placement, held, faults, chunk, prefix, model, at, deal)
    else:
        held = _add_by_recipe(placement, faults, chunks, values)
    faults.raise_if_any()
    return Source(
        placement, held,
        lambda: {prefix + name: local_tensor(tensor)
                 for chunk, prefix in _with_prefixes(chunks)
                 for name, tensor in published_tensors(chunk).items()})


def _add_by_recipe(placement: Placement, faults: Faults,
                   chunks: list[nn.Module],
                   values: dict) -> dict[str, torch.Tensor]:
    architecture = (values.get("architectures") or [None])[0]
    if architecture is None:
        raise UnsupportedTensors(
            f'hf_config of model_type "{values.get("model_type")}" has no '
            f"architectures, by which recipes are found")
    _check_expert_grid(faults)
    heads = values.get("num_attention_heads")
    tied = values.get("tie_word_embeddings")
    meaning = Meaning(
        architecture in TIED_UNLESS_TOLD if tied is None else bool(tied),
        heads, values.get("num_key_value_heads") or heads,
        is_zero_centred=architecture in ZERO_CENTRED)
    live = {}
    for chunk, prefix in _with_prefixes(chunks):
        check_settings(chunk, prefix, meaning, faults)
        live |= {prefix + name: tensor for name, tensor in
                 published_tensors(chunk).items()}
    tables = [tensor.shape[0] for name, tensor in live.items() if name.endswith(
        ("embedding.word_embeddings.weight", "output_layer.weight"))]
    return add_by_recipe(
        placement, {name: local_tensor(tensor) if type(tensor) in
                    (torch.Tensor, nn.Parameter) else tensor
                    for name, tensor in live.items()},
        values, chunks[0].config, tables[0] if tables else None, faults)


def _unwrap(chunk: nn.Module) -> nn.Module:
    """The GPTModel in DistributedDataParallel, Float16Module and the like.
    UnsupportedTensors if there is none."""
    inner = chunk
    while not hasattr(inner, "decoder") and hasattr(inner, "module"):
        inner = inner.module
    if not hasattr(inner, "decoder"):
        raise UnsupportedTensors(f"a chunk is a {type(inner).__name__}, which "
                                 f"has no decoder as a GPTModel has")
    return inner


def _with_prefixes(chunks: list[nn.Module]) -> Iterator[tuple[nn.Module, str]]:
    for i, chunk in enumerate(chunks):
        yield chunk, f"model{i}." if len(chunks) > 1 else ""


def _position(num_chunks: int) -> tuple[str, int, int]:
    """(layout_spec, rank, num_ranks), ranks with tp fastest, then cp, dp, pp.
    Only degrees are named, because only those are the same on all ranks for
    certain, and not if they are what a spec takes by default."""
    state = parallel_state
    axes = [
        ("tp", state.get_tensor_model_parallel_world_size(),
         state.get_tensor_model_parallel_rank()),
        ("cp", state.get_context_parallel_world_size(),
         state.get_context_parallel_rank()),
        ("dp", state.get_data_parallel_world_size(),
         state.get_data_parallel_rank()),
        ("pp", state.get_pipeline_model_parallel_world_size(),
         state.get_pipeline_model_parallel_rank()),
    ]
    rank, num_ranks = 0, 1
    for _, degree, index in axes:
        rank += index * num_ranks
        num_ranks *= degree
    degrees = {name: degree for name, degree, _ in axes}
    degrees["vpp"] = num_chunks
    degrees["ep"] = state.get_expert_model_parallel_world_size()
    degrees["etp"] = state.get_expert_tensor_parallel_world_size()
    defaults = {"etp": degrees["tp"]}
    given = [f"{name}={degrees[name]}"
             for name in ("tp", "pp", "vpp", "cp", "dp", "ep", "etp")
             if degrees[name] != defaults.get(name, 1)]
    spec = "megatron" + (":" + ",".join(given) if given else "")
    return spec, rank, num_ranks


def _cuts() -> tuple[rules.Rank, rules.Deal]:
    """How this rank's tensors and experts are cut."""
    state = parallel_state
    at = rules.Rank(state.get_tensor_model_parallel_world_size(),
                    state.get_tensor_model_parallel_rank())
    deal = rules.Deal(
        state.get_expert_model_parallel_world_size(),
        state.get_expert_model_parallel_rank(),
        rules.Rank(state.get_expert_tensor_parallel_world_size(),
                   state.get_expert_tensor_parallel_rank()))
    return at, deal


def _check_expert_grid(faults: Faults) -> None:
    """Recipes count the ranks of a stage with etp fastest, then ep; a training
    may have been told to count them otherwise."""
    state = parallel_state
    number = (state.get_tensor_model_parallel_rank()
              + state.get_tensor_model_parallel_world_size()
              * (state.get_context_parallel_rank()
                 + state.get_context_parallel_world_size()
                 * state.get_data_parallel_rank()))
    etp = state.get_expert_tensor_parallel_world_size()
    ep = state.get_expert_model_parallel_world_size()
    expected = {"etp": number % etp, "ep": number // etp % ep}
    found = {"etp": state.get_expert_tensor_parallel_rank(),
             "ep": state.get_expert_model_parallel_rank()}
    for axis in ("etp", "ep"):
        if found[axis] != expected[axis]:
            faults.add(f"this rank is number {found[axis]} of {axis} and would "
                       f"be {expected[axis]} in the order of recipes; "
                       f"initialize_model_parallel with order="
                       f'"tp-cp-ep-dp-pp", its default')


def _add_chunk(placement: Placement, held: dict[str, torch.Tensor],
               faults: Faults, chunk: nn.Module, prefix: str, model: Decoder,
               at: rules.Rank, deal: rules.Deal) -> None:
    named = set()
    try:
        known = _rules_of(chunk, model, at, deal)
        expected = _expected(chunk, model, deal)
    except ValueError as error:
        faults.add(f"{prefix}decoder: {error}")
        return
    for name, tensor in published_tensors(chunk).items():
        rule = known.get(name)
        if rule is None:
            faults.add(f'"{prefix}{name}" of shape {tuple(tensor.shape)} has '
                       f"no rule for this hf_config")
            continue
        try:
            held_of = rule(tuple(tensor.shape))
        except ValueError as error:
            faults.add(f'"{prefix}{name}": {error}')
            continue
        named.update(window.name for window in held_of.windows)
        _add_parameter(placement, held, faults, prefix + name, tensor, held_of)
    for name in sorted(expected - named):
        faults.add(f'no parameter of {prefix or "the model "}holds "{name}"')


Rule = Callable[[tuple[int, ...]], rules.Held]


def _rules_of(chunk: nn.Module, model: Decoder, at: rules.Rank,
              deal: rules.Deal) -> dict[str, Rule]:
    """{parameter name: rule} of everything that the chunk may have. ValueError
    if it has a layer that the checkpoint lacks."""
    embedding = "model.embed_tokens.weight"
    head = embedding if model.tied else "lm_head.weight"
    known: dict[str, Rule] = {
        "embedding.word_embeddings.weight":
            lambda shape: rules.vocabulary(model, at, embedding, shape),
        "output_layer.weight":
            lambda shape: rules.vocabulary(model, at, head, shape),
        "decoder.final_layernorm.weight":
            lambda shape: rules.replicated("model.norm.weight", (model.H,)),
    }
    for i, number in enumerate(_layer_numbers(chunk, model)):
        for name, rule in rules.layer_rules(model, at, deal, number).items():
            known[f"decoder.layers.{i}.{name}"] = (
                lambda shape, rule=rule: rule())
    return known


def _layer_numbers(chunk: nn.Module, model: Decoder) -> list[int]:
    """The global numbers of the layers, from 0, as the modules know them."""
    numbers = [layer.layer_number - 1 for layer in chunk.decoder.layers]
    for i, number in enumerate(numbers):
        if not 0 <= number < model.L:
            raise ValueError(f"layers.{i} has global number {number}, which is "
                             f"not below num_hidden_layers={model.L}")
    return numbers


def _expected(chunk: nn.Module, model: Decoder,
              deal: rules.Deal) -> set[str]:
    """The checkpoint tensors that this chunk must hold a part of."""
    experts = deal.experts(model)
    expected = {f"model.layers.{layer}.{name}"
                for layer in _layer_numbers(chunk, model)
                for name in model.layer_tensors(layer, experts)}
    if chunk.pre_process:
        expected.add("model.embed_tokens.weight")
    if chunk.post_process:
        expected.add("model.norm.weight")
        expected.add("model.embed_tokens.weight" if model.tied
                     else "lm_head.weight")
    return expected


def _add_parameter(placement: Placement, held: dict[str, torch.Tensor],
                   faults: Faults, name: str, tensor: torch.Tensor,
                   held_of: rules.Held) -> None:
    if isinstance(tensor, DTensor):
        faults.add(f'"{name}" is a DTensor; Megatron-FSDP is not supported')
        return
    if type(tensor) in (torch.Tensor, nn.Parameter):
        tensor = local_tensor(tensor)
    fault = storage_fault(name, tensor)
    if fault is None and tuple(tensor.shape) != held_of.local_shape:
        fault = (f'"{name}" has shape {tuple(tensor.shape)} but its rule says '
                 f"{held_of.local_shape}")
    if fault is not None:
        faults.add(fault)
        return
    try:
        fragments = add_fragments(placement, DTYPE_NAMES[tensor.dtype],
                                  held_of.windows, held_of.pieces,
                                  held_of.local_shape)
    except ValueError as error:
        faults.add(f'"{name}": {error}')
        return
    placement.stored.append(stored_tensor(name, tensor, fragments))
    held[name] = tensor
