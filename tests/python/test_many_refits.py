"""A thousand refits leave nothing behind: what processes hold at the last tenth
is what they held at the first, though a trainer rank loses its memory and gets
other memory in between. On GPUs where there are two, and on the host.

Needs WEFT_BIN alone, as test_gpu.py does.
"""

import pathlib
import shutil
import subprocess

import pytest

from test_gpu import ENGINE, GPUS, TRAINER, Scene

SHAPE = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
         "head_dim": 32, "intermediate_size": 256, "vocab_size": 512}
SOURCE, TARGET = "megatron:tp=2", "vllm:tp=1"
# What allocators and libraries take late, once; and a catalog's log of 16,384
# events (catalog/state/event_log.h), nine a version, which has not filled yet.
SLACK_BYTES = {"catalog": 8 << 20, "trainer": 3 << 20, "engine": 3 << 20}
SLACK_COUNT = 2
SLACK_GPU_MIB = 16
NEEDS_GPUS = pytest.mark.skipif(GPUS < 2, reason="needs two GPUs")


def use_of(process):
    """(resident bytes, descriptors, threads)"""
    folder = pathlib.Path(f"/proc/{process.process.pid}")
    status = dict(line.split(":", 1)
                  for line in (folder / "status").read_text().splitlines())
    return (int(status["VmRSS"].split()[0]) << 10,
            len(list((folder / "fd").iterdir())), int(status["Threads"]))


def gpu_mib():
    """Memory in use on the engine's GPU; None without nvidia-smi."""
    if ENGINE == "cuda:0" or shutil.which("nvidia-smi") is None:
        return None
    answer = subprocess.run(
        ["nvidia-smi", f"--id={ENGINE[5:]}", "--query-gpu=memory.used",
         "--format=csv,noheader,nounits"],
        capture_output=True, text=True, check=False)
    return int(answer.stdout) if answer.returncode == 0 else None


def mean(samples):
    return [sum(column) / len(samples) for column in zip(*samples)]


def assert_flat(name, samples):
    tenth = len(samples) // 10
    first, last = mean(samples[:tenth]), mean(samples[-tenth:])
    print(name, "resident, descriptors, threads:", first, "->", last)
    assert last[0] <= first[0] + SLACK_BYTES[name], name
    assert last[1] <= first[1] + SLACK_COUNT, name
    assert last[2] <= first[2] + SLACK_COUNT, name


class Fleet:
    """Two trainer ranks and an engine; rank 0 and the engine stay."""

    def __init__(self, scene, trainer_device, engine_device):
        self.scene, self.device = scene, trainer_device
        self.step = 0
        self.trainers = [self.start(rank) for rank in range(2)]
        for each in self.trainers:
            assert each.event()["event"] == "published"
        self.engine = scene.pull(TARGET, 0, engine_device)

    def start(self, rank, version=None):
        return self.scene.publish(SOURCE, rank, version or f"run:0:{self.step}",
                                  self.device)

    def new_version(self, renew):
        """`renew`: rank 1 dies and comes back with other memory."""
        self.step += 1
        if renew:
            self.trainers[1].kill()
            self.trainers[1] = self.start(1)
        else:
            self.trainers[1].tell("step")
        self.trainers[0].tell("step")
        for each in self.trainers:
            assert each.event()["event"] == "published"

    def refit(self):
        report = self.engine.ask(f"refit run:0:{self.step}")
        assert report["event"] == "refitted", report
        return report

    def begin_next_epoch(self):
        for each in self.trainers:
            each.kill()
        self.trainers = [self.start(rank, "run:1:0") for rank in range(2)]
        for each in self.trainers:
            assert each.event()["event"] == "published"


@pytest.mark.parametrize("trainer, engine, refits", [
    ("cpu", "cpu", 100),
    pytest.param(TRAINER, ENGINE, 1000, marks=NEEDS_GPUS)])
def test_what_is_held_stays_flat(tmp_path, trainer, engine, refits):
    scene = Scene(tmp_path, SHAPE)
    try:
        fleet = Fleet(scene, trainer, engine)
        watched = {"catalog": scene.catalog, "trainer": fleet.trainers[0],
                   "engine": fleet.engine}
        fleet.refit()
        scene.verify(fleet.engine, tmp_path / "first.safetensors", TARGET, 0, 0)
        samples = {name: [] for name in watched}
        digests, handles, renewals, gpu = set(), [], [], []
        for number in range(refits):
            # Once in each tenth, so that the tenths are alike.
            renewals.append(number % (refits // 10) == refits // 20)
            fleet.new_version(renewals[-1])
            report = fleet.refit()
            digests.add(report["digest"])
            handles.append(report["open_handles"])
            for name, process in watched.items():
                samples[name].append(use_of(process))
            if number + 1 in (refits // 10, refits):
                gpu.append(gpu_mib())
        assert len(digests) == refits  # each version had weights of its own
        for name in watched:
            assert_flat(name, samples[name])
        if engine != "cpu":
            assert_handles_flat(handles, renewals)
            print("MiB in use on the engine's GPU:", gpu)
            assert gpu[0] is None or gpu[1] <= gpu[0] + SLACK_GPU_MIB
        # All bytes once more, against a plain cut of the file.
        fleet.begin_next_epoch()
        fleet.step = 0
        report = fleet.engine.ask("refit run:1:0")
        assert report["event"] == "refitted", report
        scene.verify(fleet.engine, tmp_path / "last.safetensors", TARGET, 0, 0)
    finally:
        for process in scene.processes:
            process.kill()


def assert_handles_flat(handles, renewals):
    """As many open and as many bytes at every refit; opened only when a rank
    came back, and always as many."""
    print("open handles:", handles[0], "->", handles[-1])
    assert {(each["open"], each["bytes"]) for each in handles} == {
        (handles[0]["open"], handles[0]["bytes"])}
    assert handles[0]["open"] >= 2 and handles[0]["bytes"] > 0
    opened = [after["opened"] - before["opened"]
              for before, after in zip(handles, handles[1:])]
    for more, renewed in zip(opened, renewals[1:]):
        assert (more > 0) == renewed, (opened, renewals)
    assert len({more for more in opened if more}) == 1, opened
