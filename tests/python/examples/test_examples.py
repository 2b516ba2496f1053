"""Each example as the process that a user starts, against a real catalog; what
an engine then holds is compared with the saved checkpoint, as `weft shard`
cuts it, byte by byte."""

import importlib.util
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import threading

import pytest

from conftest import BINARY, REPOSITORY

weft = pytest.importorskip("weft")

PATIENCE = 600
EXAMPLES = REPOSITORY / "examples"
SMOLLM2 = pathlib.Path(os.environ.get("WEFT_SMOLLM2", REPOSITORY / "build/smollm2"))


def needs(*modules):
    missing = [m for m in modules if importlib.util.find_spec(m) is None]
    return pytest.mark.skipif(bool(missing), reason=f"no {', '.join(missing)} here")


def environment():
    here = str(pathlib.Path(weft.__file__).parents[1])
    known = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join([here] + [known] * bool(known)),
                         "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def catalog():
    with weft.CatalogServer("127.0.0.1:0") as server:
        yield server.address


class Example:
    """A running example with its children; killed if it takes too long."""

    def __init__(self, log, *command):
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, *map(str, command)], env=environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("w"),
            start_new_session=True)
        self._timer = threading.Timer(PATIENCE, self._kill)
        self._timer.start()

    def line(self):
        line = self._process.stdout.readline()
        assert line, "the example ended: " + self._log.read_text()[-4000:]
        return line.strip()

    def say(self):
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self):
        """What it still printed; its standard input ends."""
        rest, _ = self._process.communicate(timeout=PATIENCE)
        assert self._process.returncode == 0, self._log.read_text()[-4000:]
        return rest

    def _kill(self):
        os.killpg(self._process.pid, signal.SIGKILL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._timer.cancel()
        if self._process.poll() is None:
            self._kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


class Engine:
    """The one rank of a vLLM engine, in this process."""

    def __init__(self, catalog, model, config, layout="vllm:tp=1"):
        self._layout = layout
        placement = weft.recipe_placement(config, layout, 0)
        self._memory = {}
        for stored in placement.stored:
            elements = 1
            for extent in stored.shape:
                elements *= extent
            self._memory[stored.name] = bytearray(b"\xa5" * (2 * elements))
        self._receiver = weft.Receiver(
            catalog, model, weft.tensors(self._memory, layout=placement))

    def refit(self, version):
        return self._receiver.refit(version, timeout=PATIENCE)

    def assert_holds(self, checkpoint, folder):
        cut = folder / "cut.safetensors"
        subprocess.run([BINARY, "shard", "--checkpoint", checkpoint, "--layout",
                        self._layout, "--rank", "0", "--out", cut, "--overwrite"],
                       check=True, capture_output=True)
        expected = read_safetensors(cut)
        assert sorted(expected) == sorted(self._memory)
        for name, data in expected.items():
            assert self._memory[name] == data, name

    def snapshot(self):
        return {name: bytes(data) for name, data in self._memory.items()}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._receiver.close()


def read_safetensors(path):
    """{name: bytes}."""
    data = path.read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    return {name: data[start + entry["data_offsets"][0]:
                       start + entry["data_offsets"][1]]
            for name, entry in header.items()}


@pytest.fixture
def tiny_checkpoint(tmp_path):
    """A random Llama whose shards are uneven, with tied embeddings."""
    import torch
    import transformers
    torch.manual_seed(7)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        hidden_size=12, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=4, intermediate_size=22, vocab_size=37,
        tie_word_embeddings=True)).to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    model.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def train_and_refit(catalog, folder, checkpoint, steps, layout, *options):
    """Versions 0 to `steps` reach the engine, each while the trainer waits for a
    line; then its standard input ends."""
    config = json.loads((checkpoint / "config.json").read_text())
    seen = []
    with Example(folder / "log", "-m", "torch.distributed.run", "--standalone",
                 "--nproc-per-node", 2, EXAMPLES / "train_fsdp2.py",
                 "--catalog", catalog, "--model", "m", "--checkpoint", checkpoint,
                 "--control", "stdin", "--save", folder / "saved", "--steps",
                 steps, *options) as trainer, \
            Engine(catalog, "m", config, layout) as engine:
        for step in range(steps + 1):
            told = json.loads(trainer.line())
            assert told["step"] == step and told["version"] == f"run:0:{step}"
            assert (told["loss"] is None) == (step == 0)
            report = engine.refit(told["version"])
            assert len(report.peers) == 2 and report.tiles_checked > 0
            engine.assert_holds(folder / "saved" / f"step-{step}", folder)
            seen.append(engine.snapshot())
            if step < steps:
                trainer.say()
        assert trainer.end() == ""
    assert [v["state"] for v in weft.Catalog(catalog).versions("m")][:1] == ["GONE"]
    for before, after in zip(seen, seen[1:]):
        changed = [name for name in before if before[name] != after[name]]
        assert len(changed) > len(before) / 2


@needs("torch", "transformers")
def test_fsdp2(catalog, tmp_path, tiny_checkpoint):
    train_and_refit(catalog, tmp_path, tiny_checkpoint, 2, "vllm:tp=1")


@needs("torch", "transformers")
def test_fsdp2_rounds_float32_for_the_engine(catalog, tmp_path, tiny_checkpoint):
    """Its controller goes before the last step, which ends it too."""
    train_and_refit(catalog, tmp_path, tiny_checkpoint, 1,
                    "vllm:tp=1,dtype=bf16", "--dtype", "float32",
                    "--learning-rate", "0.01", "--steps", 9)


@needs("torch", "transformers", "tokenizers")
@pytest.mark.skipif(not (SMOLLM2 / "model.safetensors").exists(),
                    reason="no build/smollm2; scripts/make_smollm2.py makes it")
def test_fsdp2_of_a_real_model(catalog, tmp_path):
    train_and_refit(catalog, tmp_path, SMOLLM2, 1, "vllm:tp=1")


@needs("torch", "transformers", "accelerate")
def test_hf_trainer(catalog, tmp_path):
    with Example(tmp_path / "log", EXAMPLES / "train_hf_trainer.py", "--catalog",
                 catalog, "--model", "m", "--steps", 3, "--every", 2, "--save",
                 tmp_path / "saved", "--hold") as trainer:
        lines = []
        while not lines or lines[-1] != "held":
            lines.append(trainer.line())
        published = [line.split()[1] for line in lines
                     if line.startswith("published")]
        assert published == ["run:0:0", "run:0:2", "run:0:3"]
        config = json.loads((tmp_path / "saved/config.json").read_text())
        with Engine(catalog, "m", config) as engine:
            assert engine.refit("latest").version == "run:0:3"
            engine.assert_holds(tmp_path / "saved", tmp_path)
        trainer.end()


@needs("numpy")
def test_smallest(tmp_path):
    with Example(tmp_path / "log", EXAMPLES / "smallest.py") as example:
        assert example.end().count("refit to run:0:") == 3
