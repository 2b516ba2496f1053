"""What every rank of every framework holds, in NumPy, from their rules.

Independent of the C++ code and of its recipe files: written from the rules of
Megatron-Core, vLLM, SGLang and FSDP2 (oracle_megatron.py, oracle_vllm.py,
oracle_sglang.py, oracle_fsdp.py) and from what files hold (oracle_models.py).
Nothing here knows index maps, modes or runs; rows are picked by index arrays.
"""

from oracle_fsdp import fsdp
from oracle_megatron import megatron
from oracle_models import dtype_in_file, logical_shapes, model_of
from oracle_sglang import sglang
from oracle_values import SPEC_DTYPES, WORDS, Bits, Illegal, cast, step, synth
from oracle_vllm import vllm

__all__ = ["WORDS", "Bits", "Illegal", "cast", "dtype_in_file",
           "logical_shapes", "model_of", "num_ranks", "shard", "step",
           "synth"]


def parse_spec(spec):
    framework, _, items = spec.partition(":")
    keys = dict(item.split("=") for item in items.split(",") if item)
    return framework, {k: int(v) if v.isdigit() else v
                       for k, v in keys.items()}


def num_ranks(spec):
    framework, keys = parse_spec(spec)
    degrees = {"hf": [], "fsdp": ["shard", "replicate", "tp"],
               "megatron": ["tp", "pp", "cp", "dp"],
               "vllm": ["tp", "pp", "dp"], "sglang": ["tp", "pp"]}[framework]
    count = 1
    for key in degrees:
        count *= keys.get(key, 1)
    return count


def _hf(m, tensors, keys, rank):
    """The files; what they keep wide stays in their dtype."""
    wide = (".e_score_correction_bias",)
    if m.mamba:
        wide += (".A_log",)
    return {name: tensor._replace(is_pinned=name.endswith(wide))
            for name, tensor in tensors.items()}


def shard(config, tensors, spec, rank):
    """{stored name: Bits} of one rank. `tensors`: the checkpoint's, by name."""
    framework, keys = parse_spec(spec)
    rule = {"hf": _hf, "fsdp": fsdp, "megatron": megatron, "vllm": vllm,
            "sglang": sglang}[framework]
    held = rule(model_of(config), tensors, keys, rank)
    dtype = SPEC_DTYPES.get(keys.get("dtype"))
    if dtype:
        held = {name: tensor if tensor.is_pinned else cast(tensor, dtype)
                for name, tensor in held.items()}
    return held
