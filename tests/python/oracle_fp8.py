"""What engines hold of a model in FP8, in NumPy, from the rules of the formats.

Each matrix of the checkpoint is quantised whole. What a rank keeps of it is cut
from two pictures of the model by the oracle of the plain layouts: one of codes,
one in which each element is the number of its scale. Nothing here knows grids
of scales that are cut or fused."""

import re

import numpy as np

import oracle
from oracle_values import _to_f32_bits

# Of checkpoints: what engines may hold quantised.
_MATRICES = tuple(f".{name}.weight" for name in (
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
    "down_proj", "w1", "w2", "w3", "q_a_proj", "q_b_proj",
    "kv_a_proj_with_mqa", "kv_b_proj", "wq_b"))
# Of engines: what is held quantised.
_STORED = tuple(f".{name}" for name in (
    "qkv_proj.weight", "o_proj.weight", "gate_up_proj.weight",
    "down_proj.weight", "fused_qkv_a_proj.weight",
    "fused_qkv_a_proj_with_mqa.weight", "kv_a_proj_with_mqa.weight",
    "q_proj.weight", "q_b_proj.weight", "kv_b_proj.weight", "wq_b.weight",
    "w13_weight", "w2_weight"))
_BLOCKS = {"fp8-block": (128, 128), "fp8-channel": (1, None),
           "fp8-tensor": (None, None)}
# fl32(1 / 448): CUDA divides by a constant by multiplying with this.
_PER_448 = np.uint32(0x3B124925).view(np.float32)


def split(spec):
    """(the layout without its words of FP8, quant, scales)."""
    framework, _, items = spec.partition(":")
    keys = dict(item.split("=") for item in items.split(",") if item)
    quant, scales = keys.pop("quant"), keys.pop("scales", "f32")
    rest = ",".join(f"{k}={v}" for k, v in keys.items())
    return framework + (f":{rest}" if rest else ""), quant, scales


def values(tensor):
    return _to_f32_bits(tensor).view(np.float32)


def code_of(x):
    """float8_e4m3fn nearest to f32 `x`, ties to even, without infinities."""
    exponent, mantissa = np.divmod(np.arange(127), 8)
    magnitudes = np.where(exponent == 0, mantissa * 2.0**-9,
                          (8 + mantissa) * 2.0**(exponent - 10.0))
    magnitude = np.minimum(np.abs(x.astype(np.float64)), 448)
    above = np.searchsorted(magnitudes, magnitude)
    below = np.maximum(above - 1, 0)
    up, down = magnitudes[above] - magnitude, magnitude - magnitudes[below]
    codes = np.where((down < up) | ((down == up) & (below % 2 == 0)), below,
                     above)
    return (codes | np.where(np.signbit(x), 0x80, 0)).astype(np.uint8)


def quantise(tensor, quant, is_power_of_two):
    """(codes [rows, columns], scales f32 [blocks, blocks], the number of each
    element's scale)."""
    x = values(tensor)
    block = [b or max(n, 1)
             for b, n in zip(_BLOCKS[quant], x.shape, strict=True)]
    rows, columns = (np.arange(n) // b
                     for n, b in zip(x.shape, block, strict=True))
    grid = (rows[-1] + 1, columns[-1] + 1)
    number = rows[:, None] * grid[1] + columns
    amax = np.array([np.abs(x[a:a + block[0], b:b + block[1]]).max()
                     for a in range(0, x.shape[0], block[0])
                     for b in range(0, x.shape[1], block[1])], np.float32)
    scales = np.maximum(amax, np.float32(1e-4)) * _PER_448
    if is_power_of_two:
        fraction, exponent = np.frexp(scales)
        scales = np.ldexp(np.float32(1), exponent - (fraction == 0.5))
    scales = scales.astype(np.float32)
    inverse = np.float32(1) / scales
    return code_of(x * inverse[number]), scales, number


def shard(config, tensors, spec, rank):
    """{stored name: Bits} of one rank of an engine that holds FP8."""
    _, quant, form = split(spec)
    quantised = {name: quantise(tensor, quant, form != "f32")
                 for name, tensor in tensors.items()
                 if name.endswith(_MATRICES)}
    return _shard(config, tensors, quantised, spec, rank)


def shard_quantised(config, checkpoint, spec, rank):
    """The same of a checkpoint that is quantised itself: its matrices F8_E4M3,
    `<name>_scale` beside them. Scales are widened, nothing else is done."""
    _, quant, _ = split(spec)
    tensors, quantised = {}, {}
    for name, tensor in checkpoint.items():
        if name.endswith("_scale"):
            continue
        tensors[name] = tensor
        if tensor.dtype != "F8_E4M3":
            continue
        scales = checkpoint[f"{name}_scale"]
        rows, columns = tensor.bits.shape
        number = np.zeros((rows, columns), np.int64)
        if quant == "fp8-channel":
            number += np.arange(rows)[:, None]
        quantised[name] = (tensor.bits, values(scales).reshape(-1), number)
        # The oracle of the plain layouts has no word of 8 bits.
        tensors[name] = oracle.Bits("F32", tensor.bits.astype(np.uint32))
    return _shard(config, tensors, quantised, spec, rank)


def _shard(config, tensors, quantised, spec, rank):
    """`quantised`: {name: as of quantise()}, all matrices of a layer or none."""
    plain, quant, form = split(spec)
    codes, numbers, all_scales = dict(tensors), dict(tensors), [[]]
    layers = {_layer(name) for name in quantised}
    count = 0
    for name, tensor in tensors.items():
        if name not in quantised:
            continue
        word = oracle.WORDS[tensor.dtype]
        q, scales, number = quantised[name]
        assert count + scales.size <= np.iinfo(word).max
        codes[name] = tensor._replace(bits=q.astype(word))
        numbers[name] = tensor._replace(bits=(number + count).astype(word))
        all_scales.append(scales)
        count += scales.size
    all_scales = np.concatenate(all_scales).astype(np.float32)
    held = {}
    picture = oracle.shard(config, numbers, plain, rank)
    suffix = "_scale_inv" if quant == "fp8-block" else "_scale"
    for name, tensor in oracle.shard(config, codes, plain, rank).items():
        held[name] = tensor
        if name.endswith(_STORED) and _layer(name) in layers:
            held[name] = oracle.Bits("F8_E4M3", tensor.bits.astype(np.uint8))
            held[name + suffix] = _scales(name, picture[name].bits,
                                          all_scales, quant, form)
    return held


def _layer(name):
    return re.search(r"\.layers\.\d+\.", name)[0]


def _scales(name, numbers, all_scales, quant, form):
    """Those of `name` as they are stored; `numbers` [..., rows, columns] says whose scale each
    element has."""
    if quant == "fp8-block":
        numbers = numbers[..., ::128, ::128] if form != "ue8m0-packed" else (
            numbers[..., ::128])
    elif quant == "fp8-channel":
        numbers = numbers[..., :1]
    else:
        numbers = numbers[..., 0]
        is_first = np.diff(numbers.astype(np.int64), axis=-1, prepend=-1) != 0
        # A rank may have no expert; then the name tells.
        parts = (is_first.reshape(-1, is_first.shape[-1])[0].sum()
                 if is_first.size else 1 + name.endswith("w13_weight"))
        numbers = numbers[is_first].reshape(*numbers.shape[:-1], parts)
        if numbers.ndim == 2 and parts == 1:
            numbers = numbers[:, 0]
    bits = all_scales[numbers].view(np.uint32)
    if form in ("f32", "f32-pow2"):
        return oracle.Bits("F32", bits)
    exponents = (bits >> 23).astype(np.uint8)
    if form == "ue8m0":
        return oracle.Bits("F8_E8M0", exponents)
    # An int32 of four columns; columns of int32, each as long as a multiple of
    # four rows.
    rows, columns = exponents.shape[-2:]
    padding = [(0, 0)] * (exponents.ndim - 2) + [(0, -rows % 4),
                                                 (0, -columns % 4)]
    exponents = np.pad(exponents, padding)
    quads = exponents.reshape(*exponents.shape[:-1], -1, 4)
    return oracle.Bits("F8_E8M0", quads.swapaxes(-2, -3))
