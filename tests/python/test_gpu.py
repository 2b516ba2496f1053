"""Refits between GPUs by the commands of `weft`; skipped where there is none.

Needs WEFT_BIN alone, so that it runs beside a bundle on the machine with GPUs.
"""

import json
import os
import pathlib
import random
import subprocess
import threading
import time

import pytest

WEFT = os.environ.get("WEFT_BIN") or str(
    pathlib.Path(__file__).resolve().parents[2] / "build/release/bin/weft")
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
    "hidden_size": 1024, "num_hidden_layers": 3, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072,
    "vocab_size": 32768, "tie_word_embeddings": True, "rms_norm_eps": 1e-06,
    "torch_dtype": "bfloat16"}


def _gpus() -> int:
    answer = subprocess.run([WEFT, "doctor", "--json"], capture_output=True,
                            text=True, check=False)
    return len(json.loads(answer.stdout)["gpus"]) if answer.returncode == 0 else 0


GPUS = _gpus()
pytestmark = pytest.mark.skipif(GPUS == 0, reason="no CUDA device")
TRAINER, ENGINE = "cuda:0", f"cuda:{max(GPUS - 1, 0)}"


class Process:
    """A command that is spoken to in lines of JSON."""

    def __init__(self, *words):
        self.process = subprocess.Popen(
            [WEFT, *map(str, words), "--json"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, bufsize=1)

    def tell(self, line):
        self.process.stdin.write(line + "\n")

    def event(self):
        line = self.process.stdout.readline()
        assert line, "the process ended"
        return json.loads(line)

    def ask(self, line):
        self.tell(line)
        return self.event()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Scene:
    def __init__(self, tmp_path, shape=None):
        self.processes = []
        config = tmp_path / "config.json"
        config.write_text(json.dumps(CONFIG | (shape or {})))
        self.checkpoint = tmp_path / "checkpoint"
        subprocess.run([WEFT, "synth", "--config", config, "--out",
                        self.checkpoint], check=True, stdout=subprocess.DEVNULL)
        self.catalog = self.start("catalog", "--listen", "127.0.0.1:0")
        self.address = self.catalog.event()["address"]

    def start(self, *words):
        self.processes.append(Process(*words))
        return self.processes[-1]

    def publish(self, layout="hf", rank=0, version="run:0:0", device=TRAINER):
        return self.start("publish", "--catalog", self.address, "--model", "m",
                          "--checkpoint", self.checkpoint, "--layout", layout,
                          "--rank", rank, "--version", version, "--device",
                          device, "--control", "stdin")

    def pull(self, layout="vllm:tp=1", rank=0, device=ENGINE, *more):
        return self.start("pull", "--catalog", self.address, "--model", "m",
                          "--layout", layout, "--rank", rank, "--device", device,
                          "--control", "stdin", *more)

    def verify(self, engine, path, layout, rank, step):
        assert engine.ask(f"save {path}")["event"] == "saved"
        subprocess.run([WEFT, "verify", path, "--checkpoint", self.checkpoint,
                        "--layout", layout, "--rank", str(rank), "--step",
                        str(step)], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture()
def scene(tmp_path):
    made = Scene(tmp_path)
    yield made
    for process in made.processes:
        process.kill()


@pytest.mark.parametrize("trainer, engine", [
    (TRAINER, ENGINE), (TRAINER, TRAINER), ("cpu", ENGINE)])
@pytest.mark.parametrize("source, target", [
    ("megatron:tp=2", "vllm:tp=1"), ("fsdp:shard=3", "vllm:tp=2")])
def test_every_byte_arrives_version_after_version(
        scene, tmp_path, trainer, engine, source, target):
    ranks = int(source[-1])
    trainers = [scene.publish(source, rank, device=trainer)
                for rank in range(ranks)]
    for each in trainers:
        assert each.event()["event"] == "published"
    receiver = scene.pull(target, int(target[-1]) - 1, engine)
    for step in range(3):
        if step:
            for each in trainers:
                each.tell("step")
            for each in trainers:
                assert each.event()["event"] == "published"
        receiver.tell("poison")
        report = receiver.ask(f"refit run:0:{step}")
        assert report["event"] == "refitted", report
        scene.verify(receiver, tmp_path / "engine.safetensors", target,
                     int(target[-1]) - 1, step)


@pytest.mark.parametrize("source", ["hf", "megatron:tp=2"])
def test_block_fp8_is_that_of_a_plain_cut(scene, tmp_path, source):
    ranks = 2 if "tp=2" in source else 1
    for epoch, offer in enumerate((True, False)):
        spec = source + (":" if source == "hf" else ",") + "quant=fp8-block"
        trainers = [scene.publish(spec if offer else source, rank,
                                  version=f"run:{epoch}:0")
                    for rank in range(ranks)]
        for each in trainers:
            assert each.event()["event"] == "published"
        target = "vllm:tp=1,quant=fp8-block"
        receiver = scene.pull(target)
        report = receiver.ask("refit")
        assert report["event"] == "refitted", report
        scene.verify(receiver, tmp_path / "engine.safetensors", target, 0, 0)
        for each in [*trainers, receiver]:
            each.kill()
        time.sleep(0.2)


def test_a_publisher_killed_under_refits_fences_and_the_next_one_heals(
        scene, tmp_path):
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    receiver = None
    seen = []
    for epoch in range(6):
        trainer = scene.publish(version=f"run:{epoch}:0")
        assert trainer.event()["event"] == "published"
        if receiver is None:
            receiver = scene.pull("vllm:tp=1", 0, ENGINE, "--timeout", 5)
        report = receiver.ask(f"refit run:{epoch}:0")
        assert report["event"] == "refitted", report
        killer = threading.Timer(rng.uniform(0, 0.2), trainer.kill)
        killer.start()
        while report["event"] == "refitted":
            report = receiver.ask(f"refit run:{epoch}:0")
        killer.join()
        seen.append(report)
        # Alive, and what may be torn is fenced.
        assert receiver.process.poll() is None
        if "copies of GPU" in report["error"]:
            assert report["fenced"], report
    trainer = scene.publish(version="run:9:0")
    assert trainer.event()["event"] == "published"
    assert receiver.ask("refit run:9:0")["event"] == "refitted"
    scene.verify(receiver, tmp_path / "engine.safetensors", "vllm:tp=1", 0, 0)
    in_copy = sum("copies of GPU" in each["error"] for each in seen)
    print(in_copy, "of", len(seen), "were killed while the GPU copied;",
          sorted({each["error"] for each in seen}))
