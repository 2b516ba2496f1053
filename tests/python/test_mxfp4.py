"""GPT-OSS checkpoints whose experts are in MXFP4, against a decoder of NumPy
and the oracle's cuts of what it makes of them."""

import json

import numpy as np
import pytest

import cases
import family_cases
import files
import oracle
from conftest import SEED
from test_plain_path import done, refused
from test_processes import (catalog, launch, publish, pull,  # noqa: F401
                            saved_refits, start)

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4,
                 -6])
GATE_UP = "model.layers.0.mlp.experts.gate_up_proj"
DOWN = "model.layers.0.mlp.experts.down_proj"


def decode(blocks, scales):
    """BF16 [n, columns, rows] of [n, rows, columns / 32, 16] and its scales."""
    codes = np.stack([blocks & 15, blocks >> 4], axis=-1)
    codes = codes.reshape(*scales.shape, 32)
    power = np.exp2(scales.astype(np.float64) - 127)
    with np.errstate(over="ignore"):
        values = (E2M1[codes] * power[..., None]).astype(np.float32)
    n, rows, row_blocks = scales.shape
    values = values.reshape(n, rows, 32 * row_blocks).swapaxes(1, 2)
    bits = np.ascontiguousarray(values).view(np.uint32)
    return oracle.cast(oracle.Bits("F32", bits), "BF16")


def u8(array):
    return oracle.Bits("U8", np.ascontiguousarray(array, np.uint8))


def made(rng, experts=None, scales_below=256):
    """(config, what the file has, what that is in BF16)."""
    config = family_cases.random_config(rng, "gpt_oss") | {
        "hidden_size": int(rng.choice([32, 64, 96])), "head_dim": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": int(rng.choice([32, 64])), "vocab_size": 130,
        "torch_dtype": "bfloat16",
        "quantization_config": {"quant_method": "mxfp4"}}
    config["num_local_experts"] = experts or config["num_local_experts"]
    plain = family_cases.random_checkpoint(rng, config)
    packed = dict(plain)
    for name, tensor in plain.items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            continue
        n, columns, rows = tensor.bits.shape
        blocks = rng.integers(256, size=(n, rows, columns // 32, 16),
                              dtype=np.uint8)
        scales = rng.integers(scales_below, size=(n, rows, columns // 32),
                              dtype=np.uint8)
        del packed[name]
        packed[f"{name}_blocks"] = u8(blocks)
        packed[f"{name}_scales"] = u8(scales)
        plain[name] = decode(blocks, scales)
        assert plain[name].bits.shape == tensor.bits.shape
    return config, packed, plain


@pytest.fixture
def small(tmp_path):
    """(folder, config, packed, plain)."""
    rng = np.random.default_rng([SEED, 7100])
    config, packed, plain = made(rng, experts=8)
    cases.write_checkpoint(tmp_path / "packed", config, packed)
    return tmp_path / "packed", config, packed, plain


def write_in_two(folder, config, tensors):
    """Blocks in one file and scales in another, as an index may say."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    split = {"a.safetensors": {}, "b.safetensors": {}}
    for name, tensor in tensors.items():
        split["b.safetensors" if name.endswith("_scales") else
              "a.safetensors"][name] = tensor
    for name, held in split.items():
        files.write(folder / name, held)
    (folder / "model.safetensors.index.json").write_text(json.dumps(
        {"weight_map": {tensor: name for name, held in split.items()
                        for tensor in held}}))


@pytest.mark.parametrize("case", range(4))
def test_is_read_as_bf16(weft, tmp_path, case):
    rng = np.random.default_rng([SEED, 7000 + case])
    config, packed, plain = made(rng)
    folder, out = tmp_path / "packed", tmp_path / "out.safetensors"
    (write_in_two if case % 2 else cases.write_checkpoint)(folder, config,
                                                           packed)
    cases.write_checkpoint(tmp_path / "plain", config, plain)
    for spec in ("hf", "vllm:tp=2", "vllm:tp=2,ep=2", "fsdp:shard=3",
                 "megatron:dp=2,ep=2,etp=1,vocab_divisor=8", "hf:dtype=f32"):
        step = int(rng.choice([0, 1, 6]))
        stepped = {n: oracle.step(t, step) for n, t in plain.items()}
        for rank in range(oracle.num_ranks(spec)):
            cut = ("--layout", spec, "--rank", rank, "--step", step)
            done(weft("shard", "--checkpoint", folder, *cut, "--out", out))
            files.assert_equal(files.read(out),
                               oracle.shard(config, stepped, spec, rank))
            for checkpoint in (folder, tmp_path / "plain"):
                done(weft("verify", out, "--checkpoint", checkpoint, *cut))
            out.unlink()


def test_every_code_under_every_scale(weft, small, tmp_path):
    _, config, packed, plain = small
    shape = packed[f"{DOWN}_scales"].bits.shape
    every = np.arange(shape[0] * shape[1] * shape[2]) % 256
    scales = every.astype(np.uint8).reshape(shape)
    blocks = np.empty((*shape, 16), np.uint8)
    blocks[:] = np.arange(16) + 16 * np.arange(15, -1, -1)
    assert every.size >= 256
    packed |= {f"{DOWN}_blocks": u8(blocks), f"{DOWN}_scales": u8(scales)}
    cases.write_checkpoint(tmp_path / "every", config, packed)
    out = tmp_path / "out.safetensors"
    done(weft("shard", "--checkpoint", tmp_path / "every", "--layout", "hf",
              "--rank", 0, "--out", out))
    files.assert_equal(files.read(out),
                       plain | {DOWN: decode(blocks, scales)})


def test_verify_finds_a_wrong_element(weft, small, tmp_path):
    folder, _, _, plain = small
    plain[GATE_UP].bits[1, 5, 3] ^= 1
    out = tmp_path / "out.safetensors"
    files.write(out, plain)
    result = weft("verify", out, "--checkpoint", folder, "--layout", "hf",
                  "--rank", 0, "--json")
    refused(result, "verify")
    (difference,) = json.loads(result.stdout)["differences"]
    assert difference["first_origin"] == f"{GATE_UP}[1,5,3]"


# ---- as blocks ------------------------------------------------------------


@pytest.mark.parametrize("spec", ["hf", "fsdp:names=hf", "hf:dtype=f32"])
def test_blocks_pass_as_they_are(weft, small, tmp_path, spec):
    folder, _, packed, _ = small
    out = tmp_path / "out.safetensors"
    cut = ("--checkpoint", folder, "--layout", spec, "--rank", 0, "--step", 1)
    done(weft("shard", *cut, "--mxfp4", "blocks", "--out", out))
    expected = {n: t if t.dtype == "U8" else
                oracle.cast(oracle.step(t, 1), "F32" if "f32" in spec else
                            "BF16") for n, t in packed.items()}
    files.assert_equal(files.read(out), expected)
    done(weft("verify", out, *cut, "--mxfp4", "blocks"))
    assert "_blocks" in refused(weft("verify", out, *cut), "verify")


@pytest.mark.parametrize("spec", ["vllm:tp=2", "fsdp:shard=2",
                                  "megatron:vocab_divisor=8"])
def test_blocks_are_of_hf_only(weft, small, tmp_path, spec):
    assert "blocks of MXFP4 are held by hf only" in refused(
        weft("shard", "--checkpoint", small[0], "--layout", spec, "--rank", 0,
             "--mxfp4", "blocks", "--out", tmp_path / "out"), "shard")


def test_blocks_lack_nothing(weft, small, tmp_path):
    _, config, packed, plain = small
    del packed[f"{DOWN}_scales"]
    packed[GATE_UP] = plain[GATE_UP]
    cases.write_checkpoint(tmp_path / "bad", config, packed)
    sentence = refused(
        weft("shard", "--checkpoint", tmp_path / "bad", "--layout", "hf",
             "--rank", 0, "--mxfp4", "blocks", "--out", tmp_path / "out"),
        "shard")
    assert f'tensor "{DOWN}_scales" of shape ' in sentence
    assert "is missing" in sentence
    assert f'tensor "{GATE_UP}" of shape ' in sentence
    assert "does not belong to the model" in sentence


def test_blocks_arrive_as_they_are(start, catalog, small,  # noqa: F811
                                   tmp_path):
    folder, _, packed, _ = small
    trainers = [publish(start, catalog, folder, "hf", 0, "shm",
                        mxfp4="blocks")]
    assert trainers[0].event()["event"] == "published"
    engines = [pull(start, catalog, "hf", 0, "shm")]
    out = tmp_path / "out.safetensors"
    for step, _, held in saved_refits(trainers, engines, 2, out):
        files.assert_equal(held, {
            n: oracle.step(t, step) for n, t in packed.items()})


# ---- a session ------------------------------------------------------------


@pytest.mark.parametrize("trainer, engine", [
    ("megatron:dp=2,ep=2,etp=1,vocab_divisor=8", "vllm:tp=2"),
    ("hf", "vllm:tp=2,ep=2")])
def test_versions_arrive(start, catalog, small, tmp_path,  # noqa: F811
                         trainer, engine):
    """A publisher decodes with the kernels."""
    folder, config, _, plain = small
    processes = launch(start, catalog, folder, trainer, engine)
    for step, rank, held in saved_refits(*processes, 2,
                                         tmp_path / "out.safetensors"):
        stepped = {n: oracle.step(t, step) for n, t in plain.items()}
        files.assert_equal(held, oracle.shard(config, stepped, engine, rank))


# ---- faults ---------------------------------------------------------------


def drop(name):
    return lambda packed, plain: packed.pop(name)


def put(name, change):
    def apply(packed, plain):
        packed[name] = change(packed[name])
    return apply


def both(packed, plain):
    packed[GATE_UP] = plain[GATE_UP]


def both_but_scales(packed, plain):
    both(packed, plain)
    del packed[f"{GATE_UP}_scales"]


@pytest.mark.parametrize("change, faults", [
    (drop(f"{GATE_UP}_scales"),
     [f'tensor "{GATE_UP}_blocks" has no "{GATE_UP}_scales" beside it']),
    (drop(f"{DOWN}_blocks"),
     [f'tensor "{DOWN}_scales" has no "{DOWN}_blocks" beside it']),
    (put(f"{DOWN}_blocks", lambda t: t.rows(slice(1, None))),
     [f'tensor "{DOWN}_blocks" is U8[', "but the config gives U8["]),
    (put(f"{DOWN}_blocks", lambda t: u8(t.bits[..., :15])),
     [f'tensor "{DOWN}_blocks" is U8[', ",15], but the config gives U8["]),
    (put(f"{DOWN}_scales", lambda t: u8(t.bits[..., None])),
     [f'tensor "{DOWN}_scales" is U8[', ",1], but the config gives U8["]),
    (put(f"{DOWN}_scales", lambda t: oracle.Bits(
        "BF16", t.bits.astype(np.uint16))),
     [f'tensor "{DOWN}_scales" is BF16[', "but the config gives U8["]),
    (both, [f'tensor "{GATE_UP}" is there twice, also in MXFP4 as '
            f'"{GATE_UP}_blocks"']),
    (both_but_scales,
     [f'tensor "{GATE_UP}" is there twice, also in MXFP4 as '
      f'"{GATE_UP}_blocks"; tensor "{GATE_UP}_blocks" has no '
      f'"{GATE_UP}_scales" beside it']),
])
def test_refuses(weft, small, tmp_path, change, faults):
    _, config, packed, plain = small
    change(packed, plain)
    folder = tmp_path / "bad"
    cases.write_checkpoint(folder, config, packed)
    sentence = refused(
        weft("shard", "--checkpoint", folder, "--layout", "hf", "--rank", 0,
             "--out", tmp_path / "out"), "shard")
    at = 0
    for words in faults:
        assert words in sentence[at:], sentence
        at = sentence.index(words, at) + len(words)
    # Nothing else is said of the tensor.
    assert "missing" not in sentence and "belong" not in sentence
    assert not (tmp_path / "out").exists()


def test_refuses_a_width_that_blocks_do_not_divide(weft, small, tmp_path):
    _, config, packed, _ = small
    config = config | {"intermediate_size": 40}
    folder = tmp_path / "bad"
    cases.write_checkpoint(folder, config, packed)
    sentence = refused(
        weft("shard", "--checkpoint", folder, "--layout", "hf", "--rank", 0,
             "--out", tmp_path / "out"), "shard")
    assert (f'tensor "{DOWN}" of shape ' in sentence and
            "its blocks of 32 do not divide 40" in sentence)
    assert f'tensor "{GATE_UP}_blocks" is U8[' in sentence
