"""synth, shard and verify against the NumPy oracle, byte for byte."""

import itertools
import json
import os
import shutil
import struct
import subprocess

import numpy as np
import pytest

import cases
import files
import oracle
from conftest import SEED

SMALL_CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "hidden_size": 12,
    "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 4, "intermediate_size": 16,
    "vocab_size": 70, "tie_word_embeddings": False, "torch_dtype": "bfloat16"}


def refused(result, command):
    """Exit code 1 and one sentence on standard error; returns the sentence."""
    assert result.returncode == 1, result
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    prefix = f"weft {command}: "
    assert lines[0].startswith(prefix)
    sentence = lines[0][len(prefix):]
    assert sentence and not sentence.endswith(".")
    return sentence


def done(result):
    assert result.returncode == 0, result
    assert result.stderr == ""
    return result.stdout


@pytest.fixture
def small(tmp_path):
    """A small checkpoint: (folder, config, tensors)."""
    tensors = {
        name: oracle.synth(name, shape, 7)
        for name, shape in oracle.logical_shapes(SMALL_CONFIG).items()}
    cases.write_checkpoint(tmp_path / "small", SMALL_CONFIG, tensors)
    return tmp_path / "small", SMALL_CONFIG, tensors


# ---- shard and verify -----------------------------------------------------


@pytest.mark.parametrize("case", range(30))
def test_shard_is_the_oracles(weft, tmp_path, case):
    rng = np.random.default_rng([SEED, case])
    config = cases.random_config(rng)
    tensors = cases.random_checkpoint(rng, config)
    folder = tmp_path / "checkpoint"
    cases.write_checkpoint(folder, config, tensors)
    for _ in range(4):
        spec = cases.mostly_legal_spec(rng, config, tensors)
        legal = cases.is_legal(config, tensors, spec)
        step = int(rng.choice([0, 0, 1, 6, 7, 12345678901]))
        for rank in range(oracle.num_ranks(spec)):
            case_args = ("--checkpoint", folder, "--layout", spec, "--rank",
                         rank, "--step", step)
            out = tmp_path / "out.safetensors"
            result = weft("shard", *case_args, "--out", out, "--json")
            if not legal:
                refused(result, "shard")
                assert not out.exists()
                break
            report = json.loads(done(result))
            assert report["num_ranks"] == oracle.num_ranks(spec)
            assert report["rank"] == rank
            stepped = {n: oracle.step(t, step) for n, t in tensors.items()}
            files.assert_equal(files.read(out),
                               oracle.shard(config, stepped, spec, rank))
            assert files.metadata(out)["weft_rank"] == str(rank)
            if rank == 0:
                done(weft("verify", out, *case_args))
            out.unlink()


@pytest.mark.parametrize("case", range(12))
def test_verify_finds_every_flipped_byte(weft, tmp_path, case):
    rng = np.random.default_rng([SEED, 1000 + case])
    config = cases.random_config(rng)
    tensors = cases.random_checkpoint(rng, config)
    spec = next(s for s in iter(lambda: cases.random_spec(rng), None)
                if cases.is_legal(config, tensors, s))
    folder, out = tmp_path / "checkpoint", tmp_path / "out.safetensors"
    cases.write_checkpoint(folder, config, tensors)
    # A rank that holds something: of many FSDP ranks some may not.
    for rank in map(int, rng.permutation(oracle.num_ranks(spec))):
        case_args = ("--checkpoint", folder, "--layout", spec, "--rank", rank)
        done(weft("shard", *case_args, "--out", out))
        good = out.read_bytes()
        data_begin = 8 + struct.unpack("<Q", good[:8])[0]
        if len(good) > data_begin:
            break
        out.unlink()
    header = json.loads(good[8:data_begin])
    # Where each stored element comes from: the same cut of numbered elements.
    numbered, origins = {}, ["padding"]
    for name, tensor in tensors.items():
        count = tensor.bits.size
        ids = np.arange(len(origins), len(origins) + count, dtype=np.uint32)
        numbered[name] = oracle.Bits("F32", ids.reshape(tensor.bits.shape))
        origins += [f"{name}[{','.join(map(str, x))}]" for x in
                    itertools.product(*map(range, tensor.bits.shape))]
    framework, _, items = spec.partition(":")
    uncast = ",".join(item for item in items.split(",")
                      if not item.startswith("dtype="))
    sources = oracle.shard(config, numbered, f"{framework}:{uncast}", rank)
    for at in rng.integers(data_begin, len(good), size=4):
        bad = bytearray(good)
        bad[at] ^= 1 << int(rng.integers(8))
        out.write_bytes(bad)
        name, entry = next(
            (n, e) for n, e in header.items() if n != "__metadata__" and
            e["data_offsets"][0] <= at - data_begin < e["data_offsets"][1])
        item = {"BF16": 2, "F16": 2, "F32": 4}[entry["dtype"]]
        element = (at - data_begin - entry["data_offsets"][0]) // item
        result = weft("verify", out, *case_args, "--json")
        assert name in refused(result, "verify")
        report = json.loads(result.stdout)
        assert not report["equal"]
        (difference,) = report["differences"]
        assert difference["tensor"] == name
        assert difference["kind"] == "bytes"
        assert difference["elements"] == 1
        source = sources[name].bits.reshape(-1)[element]
        assert difference["first_origin"] == origins[source]


def test_verify_finds_another_step(weft, small, tmp_path):
    folder, config, tensors = small
    out = tmp_path / "out.safetensors"
    case_args = ("--checkpoint", folder, "--layout", "vllm:tp=2", "--rank", 1)
    done(weft("shard", *case_args, "--step", 3, "--out", out))
    done(weft("verify", out, *case_args, "--step", 3))
    refused(weft("verify", out, *case_args, "--step", 4), "verify")
    result = weft("verify", out, *case_args, "--json")
    refused(result, "verify")
    differences = {d["tensor"]: d for d in
                   json.loads(result.stdout)["differences"]}
    stored = oracle.shard(config, tensors, "vllm:tp=2", 1)
    assert differences.keys() == stored.keys()
    # Every element of a step differs, but for the padding.
    norm = differences["model.norm.weight"]
    assert norm["elements"] == config["hidden_size"]
    assert differences["lm_head.weight"]["elements"] == 6 * 12


def test_verify_lists_all_that_is_wrong(weft, small, tmp_path):
    folder, config, tensors = small
    held = oracle.shard(config, tensors, "hf", 0)
    del held["model.norm.weight"]
    held["surplus"] = oracle.Bits("F32", np.zeros((1,), np.uint32))
    name = "model.layers.1.mlp.down_proj.weight"
    held[name] = oracle.Bits("BF16", held[name].bits.T)
    other = "model.layers.0.input_layernorm.weight"
    held[other] = oracle.cast(held[other], "F32")
    out = tmp_path / "out.safetensors"
    files.write(out, held)
    result = weft("verify", out, "--checkpoint", folder, "--layout", "hf",
                  "--rank", 0, "--json")
    refused(result, "verify")
    kinds = {d["tensor"]: d["kind"] for d in
             json.loads(result.stdout)["differences"]}
    assert kinds == {"model.norm.weight": "missing", "surplus": "extra",
                     name: "shape", other: "dtype"}
    text = weft("verify", out, "--checkpoint", folder, "--layout", "hf",
                "--rank", 0)
    assert len(text.stdout.splitlines()) == 4


def test_casts_every_bit_pattern(weft, tmp_path):
    """All 16-bit values both ways; 65,536 random and all hard f32 values."""
    config = SMALL_CONFIG | {"vocab_size": 5461, "tie_word_embeddings": True}
    shape = (5461, 12)  # 65,532, and the last four in the final norm
    rng = np.random.default_rng([SEED, 2000])
    every = np.arange(65536)
    random = rng.integers(0, 2**32, size=65536, dtype=np.uint32)
    # Halfway between two bf16 or f16 values, and one to either side.
    random[::4] = (random[::4] & 0xFFFF0000) | rng.choice(
        [0x7FFF, 0x8000, 0x8001], size=16384).astype(np.uint32)
    exponents = rng.integers(90, 145, size=16384).astype(np.uint32) << 23
    random[1::4] = (random[1::4] & 0x807FE000) | exponents | rng.choice(
        [0x0FFF, 0x1000, 0x1001], size=16384).astype(np.uint32)
    for dtype, values in (("BF16", every), ("F16", every), ("F32", random)):
        values = values.astype(oracle.WORDS[dtype])
        tensors = {n: oracle.synth(n, s, 1, dtype) for n, s in
                   oracle.logical_shapes(config).items()}
        tensors["model.embed_tokens.weight"] = oracle.Bits(
            dtype, values[:65532].reshape(shape))
        tensors["model.norm.weight"].bits[:4] = values[65532:]
        folder = tmp_path / dtype
        cases.write_checkpoint(folder, config, tensors)
        for to in ("bf16", "f16", "f32"):
            out = tmp_path / f"{dtype}-{to}.safetensors"
            spec = f"hf:dtype={to}"
            done(weft("shard", "--checkpoint", folder, "--layout", spec,
                      "--rank", 0, "--out", out))
            files.assert_equal(files.read(out),
                               oracle.shard(config, tensors, spec, 0))


# ---- synth ----------------------------------------------------------------


@pytest.mark.parametrize("case", range(8))
def test_synth_is_the_oracles(weft, tmp_path, case):
    rng = np.random.default_rng([SEED, 3000 + case])
    config = cases.random_config(rng)
    seed = int(rng.choice([0, 1, 2**63 + 11]))
    config_path = tmp_path / "config.json"
    config_path.write_text(json.dumps(config, indent=1))
    out = tmp_path / "made"
    limit = int(rng.choice([500, 5000, 2**31]))
    report = json.loads(done(weft(
        "synth", "--config", config_path, "--out", f"{out}/", "--seed", seed,
        "--max-file-bytes", limit, "--json")))
    assert (out / "config.json").read_bytes() == config_path.read_bytes()
    dtype = {"bfloat16": "BF16", "float16": "F16",
             "float32": "F32"}[config["torch_dtype"]]
    expected = {n: oracle.synth(n, s, seed, dtype) for n, s in
                oracle.logical_shapes(config).items()}
    names = sorted(path.name for path in out.glob("*.safetensors"))
    assert len(names) == report["files"]
    found = {}
    for name in names:
        tensors = files.read(out / name)
        data = sum(t.bits.nbytes for t in tensors.values())
        assert data <= limit or len(tensors) == 1
        found |= tensors
    files.assert_equal(found, expected)
    if len(names) > 1:
        index = json.loads(
            (out / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == report["bytes"]
        for name in names:
            for tensor in files.read(out / name):
                assert index["weight_map"].pop(tensor) == name
        assert index["weight_map"] == {}
    else:
        assert names == ["model.safetensors"]
    for tensor in expected.values():
        values = oracle.cast(tensor, "F32").bits.view(np.float32)
        assert np.isfinite(values).all() and (values != 0).all()
        # Varied: a run of 40 equal values has probability 510^-39.
        assert tensor.bits.size < 40 or len(np.unique(tensor.bits)) > 10
    shard = tmp_path / "rank.safetensors"
    done(weft("shard", "--checkpoint", out, "--layout", "hf", "--rank", 0,
              "--out", shard))
    files.assert_equal(files.read(shard), expected)


def test_synth_keeps_what_is_there(weft, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(SMALL_CONFIG))
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("x")
    sentence = refused(weft("synth", "--config", config, "--out", out),
                       "synth")
    assert str(out) in sentence
    assert [p.name for p in out.iterdir()] == ["precious"]
    (out / "precious").unlink()
    done(weft("synth", "--config", tmp_path, "--out", out))  # empty: taken
    assert (out / "model.safetensors").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "out"]


@pytest.mark.parametrize("change, words", [
    ({"architectures": ["BertModel"]}, ["BertModel"]),
    ({"architectures": None}, ["architectures"]),
    ({"torch_dtype": "float8_e4m3fn"}, ["F8_E4M3", "torch_dtype"]),
    ({"torch_dtype": "int3"}, ["int3"]),
    ({"hidden_size": None}, ["hidden_size"]),
    ({"vocab_size": 2**62, "hidden_size": 2**62}, []),
])
def test_synth_refuses_a_bad_config(weft, tmp_path, change, words):
    config = SMALL_CONFIG | change
    config = {key: value for key, value in config.items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    sentence = refused(weft("synth", "--config", tmp_path / "config.json",
                            "--out", tmp_path / "out"), "synth")
    for word in words:
        assert word in sentence
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


# ---- bad input ------------------------------------------------------------


@pytest.mark.parametrize("spec, rank, words", [
    ("megatron:tp=3", 0, ["tp=3", "4"]),
    ("megatron:tp=2", 2, ["rank 2", "2"]),
    ("megatron:tp=4", 0, ["vocab_size=70", "vocab_divisor"]),
    ("megatron:pp=3", 0, ["pp=3", "2"]),
    ("megatron:tp=0", 0, ["tp=0"]),
    ("megatron:tp=x", 0, ["tp=x"]),
    ("megatron:tp=2,tp=2", 0, ["tp"]),
    ("megatron:rows=2", 0, ["rows", "tp"]),
    ("vllm:tp=99999999999999999999", 0, ["tp"]),
    ("vllm:quant=fp8-block", 0, ["quant"]),
    ("fsdp:names=funny", 0, ["funny"]),
    ("slime:tp=1", 0, ["slime", "megatron"]),
    ("", 0, []),
    ("hf", 1, ["rank 1"]),
])
def test_bad_layouts(weft, small, tmp_path, spec, rank, words):
    out = tmp_path / "out.safetensors"
    sentence = refused(
        weft("shard", "--checkpoint", small[0], "--layout", spec, "--rank",
             rank, "--out", out), "shard")
    for word in words:
        assert word in sentence
    assert [p.name for p in tmp_path.iterdir()] == ["small"]


def rewrite(path, change):
    """Rewrites a file's header and data by change(header, data)."""
    content = path.read_bytes()
    begin = 8 + struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8:begin]), content[begin:]
    header, data = change(header, data) or (header, data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def drop_norm(header, data):
    # The last tensor of the data: no hole is left.
    last = max((n for n in header if n != "__metadata__"),
               key=lambda n: header[n]["data_offsets"])
    data = data[:header.pop(last)["data_offsets"][0]]
    return header, data


def set_field(key, value):
    def change(header, data):
        header["model.norm.weight"][key] = value
        return header, data
    return change


def shift_offsets(header, data):
    begin, end = header["model.norm.weight"]["data_offsets"]
    header["model.norm.weight"]["data_offsets"] = [begin - 4, end - 4]
    return header, data


def past_the_end(header, data):
    begin, end = header["model.norm.weight"]["data_offsets"]
    header["model.norm.weight"]["data_offsets"] = [begin + 2**40, end + 2**40]
    return header, data


@pytest.mark.parametrize("change, words", [
    (lambda h, d: (h, d[:-1]), ["truncated"]),
    (lambda h, d: (h, d + b"12"), ["belong to no tensor"]),
    (drop_norm, ["missing"]),
    (set_field("dtype", "F4"), ["model.norm.weight", "F4"]),
    (set_field("shape", [13]), ["model.norm.weight", "[13]"]),
    (set_field("shape", [3, 4]), ["model.norm.weight", "[3,4]", "[12]"]),
    (shift_offsets, ["model.norm.weight", "overlaps"]),
    (past_the_end, ["model.norm.weight", "belong to no tensor"]),
])
def test_bad_checkpoints(weft, small, tmp_path, change, words):
    rewrite(small[0] / "model.safetensors", change)
    sentence = refused(
        weft("shard", "--checkpoint", small[0], "--layout", "hf", "--rank", 0,
             "--out", tmp_path / "out"), "shard")
    for word in words:
        assert word in sentence
    assert [p.name for p in tmp_path.iterdir()] == ["small"]


def test_header_beyond_the_file(weft, small, tmp_path):
    path = small[0] / "model.safetensors"
    content = path.read_bytes()
    for length in (len(content), 2**63, 2**64 - 1):
        path.write_bytes(struct.pack("<Q", length) + content[8:])
        sentence = refused(
            weft("shard", "--checkpoint", small[0], "--layout", "hf", "--rank",
                 0, "--out", tmp_path / "out"), "shard")
        assert str(length) in sentence


def test_faults_are_reported_together(weft, small, tmp_path):
    folder, config, tensors = small
    tensors = dict(tensors)
    del tensors["lm_head.weight"]
    tensors["stranger"] = oracle.Bits("F32", np.zeros((2,), np.uint32))
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].rows(slice(1, None))
    shutil.rmtree(folder)
    cases.write_checkpoint(folder, config, tensors)
    sentence = refused(
        weft("shard", "--checkpoint", folder, "--layout", "hf", "--rank", 0,
             "--out", tmp_path / "out"), "shard")
    for words in ("lm_head.weight", "missing", "stranger", name, "[15,12]",
                  "[16,12]", "Qwen3ForCausalLM"):
        assert words in sentence


def test_droppable_tensors(weft, tmp_path):
    config = SMALL_CONFIG | {"tie_word_embeddings": True,
                             "architectures": ["LlamaForCausalLM"]}
    tensors = {n: oracle.synth(n, s, 1) for n, s in
               oracle.logical_shapes(config).items()}
    embedding = tensors["model.embed_tokens.weight"]
    extra = {"lm_head.weight": embedding,
             "model.layers.1.self_attn.rotary_emb.inv_freq":
                 oracle.Bits("F32", np.zeros((2,), np.uint32))}
    cases.write_checkpoint(tmp_path / "a", config, tensors | extra)
    out = tmp_path / "out"
    done(weft("shard", "--checkpoint", tmp_path / "a", "--layout", "hf",
              "--rank", 0, "--out", out))
    files.assert_equal(files.read(out), tensors)
    # A head of its own is no copy: dropping it would be another model.
    extra["lm_head.weight"] = oracle.step(embedding, 1)
    cases.write_checkpoint(tmp_path / "b", config, tensors | extra)
    sentence = refused(
        weft("shard", "--checkpoint", tmp_path / "b", "--layout", "hf",
             "--rank", 0, "--out", tmp_path / "out2"), "shard")
    assert "lm_head.weight" in sentence and "tie" in sentence


def test_missing_inputs(weft, small, tmp_path):
    folder = small[0]
    nowhere = tmp_path / "nowhere"
    result = weft("shard", "--checkpoint", nowhere, "--layout", "hf", "--rank",
                  0, "--out", tmp_path / "out")
    assert str(nowhere) in refused(result, "shard")
    assert str(nowhere) in refused(
        weft("verify", nowhere, "--checkpoint", folder, "--layout", "hf",
             "--rank", 0), "verify")
    (folder / "config.json").unlink()
    assert "config.json" in refused(
        weft("shard", "--checkpoint", folder, "--layout", "hf", "--rank", 0,
             "--out", tmp_path / "out"), "shard")
    assert not (tmp_path / "out").exists()


def test_output_exists(weft, small, tmp_path):
    out = tmp_path / "out"
    out.write_text("precious")
    args = ("shard", "--checkpoint", small[0], "--layout", "hf", "--rank", 0,
            "--out", out)
    assert "exists" in refused(weft(*args), "shard")
    assert out.read_text() == "precious"
    done(weft(*args, "--overwrite"))
    files.assert_equal(files.read(out), small[2])
    assert "no directory" in refused(
        weft(*args[:-1], tmp_path / "none" / "out"), "shard")


def test_usage_errors(weft):
    assert weft("shard").returncode == 2
    assert weft("shard", "--funny").returncode == 2
    for command in ("shard", "verify", "synth"):
        text = done(weft(command, "--help"))
        assert f"example: weft {command} " in text
        assert "--json" in text


def test_full_disk(weft, tmp_path, full_disk):
    config = SMALL_CONFIG | {"vocab_size": 4000}
    (tmp_path / "config.json").write_text(json.dumps(config))
    sentence = refused(
        weft("synth", "--config", tmp_path, "--out", full_disk / "made"),
        "synth")
    assert "No space left" in sentence and str(full_disk) in sentence
    assert list(full_disk.iterdir()) == []
    done(weft("synth", "--config", tmp_path, "--out", tmp_path / "made"))
    out = full_disk / "out.safetensors"
    sentence = refused(
        weft("shard", "--checkpoint", tmp_path / "made", "--layout", "hf",
             "--rank", 0, "--out", out), "shard")
    assert "No space left" in sentence and str(out) in sentence
    assert list(full_disk.iterdir()) == []
