"""Random checkpoints that are FP8 themselves, with a scale a row or a matrix."""

import numpy as np

import cases
import oracle
import oracle_fp8

MATRICES = oracle_fp8._MATRICES
SHAPES = {"fp8-channel": (lambda n: (n, 1), lambda n: (n,)),
          "fp8-tensor": (lambda n: (), lambda n: (1,), lambda n: (1, 1))}


def fp8_checkpoint(rng, config, quant, plain_layers=()):
    """Random codes, NaN too, and random scales; {name: Bits}."""
    dtype = {"bfloat16": "BF16", "float16": "F16",
             "float32": "F32"}[config["torch_dtype"]]
    scale_dtype = str(rng.choice(["F32", "BF16", "F16"]))
    tensors = {}
    for name, shape in oracle.logical_shapes(config, False).items():
        is_plain = any(f".layers.{i}." in name for i in plain_layers)
        if is_plain or not name.endswith(MATRICES):
            tensors[name] = cases.random_bits(
                rng, oracle.dtype_in_file(name) or dtype, shape)
            continue
        tensors[name] = oracle.Bits(
            "F8_E4M3", rng.integers(0, 256, shape).astype(np.uint8))
        forms = SHAPES[quant]
        count = forms[int(rng.integers(len(forms)))](shape[0])
        scales = rng.uniform(0.5, 2, count).astype(np.float32) * np.float32(
            2.0 ** rng.integers(-9, 3))
        tensors[f"{name}_scale"] = oracle.cast(
            oracle.Bits("F32", scales.astype(np.float32).view(np.uint32)),
            scale_dtype)
    return tensors
