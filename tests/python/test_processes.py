"""Publishers, receivers and a catalog as real processes, and killing them."""

import contextlib
import json
import queue
import signal
import subprocess
import threading

import pytest

import files
import oracle
from conftest import BINARY

# Seconds; bounds, not expectations: of what a rank gives a call, and of what a
# test gives a rank.
CALL_SECONDS = 60
PATIENCE = 2 * CALL_SECONDS

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 130,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}


class Process:
    """A child that prints JSON lines and takes lines on standard input."""

    def __init__(self, *args):
        self.child = subprocess.Popen(
            [str(BINARY), *map(str, args), "--json"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.events = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.child.stdout:
            self.events.put(json.loads(line))
        self.events.put(None)

    def event(self):
        event = self.events.get(timeout=PATIENCE)
        if event is None:
            pytest.fail("ended: " + self.child.stderr.read())
        return event

    def say(self, line):
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()

    def kill(self):
        self.child.send_signal(signal.SIGKILL)
        self.child.wait(PATIENCE)

    def close(self):
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait(PATIENCE)
        for pipe in (self.child.stdin, self.child.stdout, self.child.stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@pytest.fixture
def start():
    """start(args...) runs a Process that is ended with the test."""
    started = []

    def run(*args):
        started.append(Process(*args))
        return started[-1]

    yield run
    for process in reversed(started):
        process.close()


@pytest.fixture
def checkpoint(weft, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG))
    folder = tmp_path / "checkpoint"
    result = weft("synth", "--config", config, "--out", folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def catalog(start):
    return start("catalog", "--listen", "127.0.0.1:0").event()["address"]


def publish(start, catalog, checkpoint, layout, rank, transport="auto", **more):
    extra = [word for key, value in more.items() for word in (f"--{key}", value)]
    return start("publish", "--catalog", catalog, "--model", "m", "--checkpoint",
                 checkpoint, "--layout", layout, "--rank", rank, "--transport",
                 transport, "--control", "stdin", "--timeout", CALL_SECONDS,
                 *extra)


def pull(start, catalog, layout, rank, transport="auto", **more):
    extra = [word for key, value in more.items() for word in (f"--{key}", value)]
    return start("pull", "--catalog", catalog, "--model", "m", "--layout", layout,
                 "--rank", rank, "--transport", transport, "--control", "stdin",
                 "--timeout", CALL_SECONDS, *extra)


def assert_holds(weft, engine, checkpoint, layout, rank, step, path):
    engine.say(f"save {path}")
    assert engine.event()["event"] == "saved"
    result = weft("verify", path, "--checkpoint", checkpoint, "--layout", layout,
                  "--rank", rank, "--step", step)
    assert result.returncode == 0, result.stdout + result.stderr


def launch(start, catalog, checkpoint, trainer, engine, transport="shm"):
    """All ranks of both sides, the first version published: (trainers,
    engines)."""
    trainers = [publish(start, catalog, checkpoint, trainer, rank, transport)
                for rank in range(oracle.num_ranks(trainer))]
    for process in trainers:
        assert process.event()["event"] == "published"
    return trainers, [pull(start, catalog, engine, rank, transport)
                      for rank in range(oracle.num_ranks(engine))]


def saved_refits(trainers, engines, num_versions, path):
    """refits(), each saved to `path` and read. Yields (step, rank, tensors)."""
    for step, rank, process, _ in refits(trainers, engines, num_versions):
        process.say(f"save {path}")
        assert process.event()["event"] == "saved"
        yield step, rank, files.read(path)
        path.unlink()


def refits(trainers, engines, num_versions):
    """Steps the trainers from version to version and refits each engine, poisoned
    before. Yields (step, rank, engine, its report)."""
    for step in range(num_versions):
        if step:
            for process in trainers:
                process.say("step")
            for process in trainers:
                assert process.event()["version"] == f"run:0:{step}"
        for rank, process in enumerate(engines):
            process.say("poison")
            process.say(f"refit run:0:{step}")
            report = process.event()
            assert report.get("event") == "refitted", report
            yield step, rank, process, report


@pytest.mark.parametrize("transport", ["shm", "ucx"])
@pytest.mark.parametrize("trainer,ranks,engine,engine_ranks", [
    ("megatron:tp=2,pp=2,vocab_divisor=8", 4, "vllm:tp=4", 4),
    ("fsdp:shard=3,tp=2", 6, "vllm:tp=2,pp=2", 4),
    ("megatron:tp=4,vocab_divisor=8", 4, "hf", 1),
])
def test_versions_arrive_on_every_rank(weft, start, catalog, checkpoint, tmp_path,
                                       transport, trainer, ranks, engine,
                                       engine_ranks):
    trainers = [publish(start, catalog, checkpoint, trainer, r, transport)
                for r in range(ranks)]
    for process in trainers:
        assert process.event()["event"] == "published"
    engines = [pull(start, catalog, engine, r, transport)
               for r in range(engine_ranks)]
    for step, rank, process, report in refits(trainers, engines, 3):
        assert report["planned"] == (step == 0)
        assert report["manifests_fetched"] == (0 if step else ranks)
        assert_holds(weft, process, checkpoint, engine, rank, step,
                     tmp_path / "out.safetensors")


def test_a_publisher_killed_in_mid_transfer(weft, start, catalog, checkpoint,
                                            tmp_path):
    trainers = [publish(start, catalog, checkpoint, "megatron:pp=2", r)
                for r in range(2)]
    for process in trainers:
        process.event()
    engine = pull(start, catalog, "vllm:tp=1", 0, inject="faults")
    engine.say("drop")  # the transfer begins and never ends
    engine.say("refit")
    wait_for_lease(weft, catalog)
    trainers[1].kill()
    failed = engine.event()
    assert failed["event"] == "failed"
    assert failed["code"] in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
    assert "publisher rank" in failed["error"]
    assert failed["fenced"]
    # The engine may see it before the catalog does.
    version, = await_listed(weft, "versions", catalog, lambda listed: [
        each["state"] for each in listed] == ["GONE"])
    assert "rank 1 died" in version["reason"]
    # A new trainer under the same name, with a newer epoch, heals it.
    for rank in range(2):
        publish(start, catalog, checkpoint, "megatron:pp=2", rank,
                version="run:1:0").event()
    engine.say("refit")
    assert engine.event()["event"] == "refitted"
    assert_holds(weft, engine, checkpoint, "vllm:tp=1", 0, 0,
                 tmp_path / "out.safetensors")


def listing(weft, what, catalog):
    result = weft(what, "--catalog", catalog, "--json")
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def await_listed(weft, what, catalog, holds):
    """What is listed, once it is as wanted."""
    for _ in range(2000):
        listed = listing(weft, what, catalog)
        if holds(listed):
            return listed
    pytest.fail(f"{what} never came to be as wanted: {json.dumps(listed)}")
    return None


def said_in_vain(weft, *command):
    """What a command says that waits for what never comes. One whose time is up
    before it has heard of anything gets more."""
    for seconds in (1, 4, 16, 64):
        result = weft(*command, "--timeout", seconds)
        assert result.returncode == 1, result
        if "nothing has been published" not in result.stderr:
            break
    return result.stderr


def wait_for_lease(weft, catalog):
    await_listed(weft, "versions", catalog,
                 lambda listed: any(each["leases"] for each in listed))


def test_a_receiver_killed_in_mid_transfer(weft, start, catalog, checkpoint):
    trainer = publish(start, catalog, checkpoint, "hf", 0)
    trainer.event()
    engine = pull(start, catalog, "vllm:tp=1", 0, inject="faults")
    engine.say("drop")
    engine.say("refit")
    wait_for_lease(weft, catalog)
    engine.kill()
    # Its lease does not hold the trainer up, and the catalog knows.
    trainer.say("step")
    assert trainer.event()["version"] == "run:0:1"
    workers = listing(weft, "workers", catalog)
    assert [w["alive"] for w in workers if w["role"] == "receiver"] == [False]


def test_what_ucx_says_is_no_answer(start, catalog, checkpoint, monkeypatch):
    """It would write to standard output, between the lines of JSON."""
    monkeypatch.setenv("UCX_NO_SUCH_SETTING", "1")
    publisher = publish(start, catalog, checkpoint, "hf", 0, "ucx")
    assert publisher.event()["event"] == "published"
    publisher.kill()
    assert publisher.events.get(timeout=PATIENCE) is None
    assert "UCX_NO_SUCH_SETTING" in publisher.child.stderr.read()


def test_two_publishers_of_one_rank(start, catalog, checkpoint, weft):
    publish(start, catalog, checkpoint, "hf", 0).event()
    second = weft("publish", "--catalog", catalog, "--model", "m", "--checkpoint",
                  checkpoint, "--layout", "hf", "--rank", 0)
    assert second.returncode == 1
    assert second.stderr.startswith("weft publish: ")


@pytest.mark.parametrize("arguments,expected", [
    (["pull", "--layout", "vllm:tp=1", "--rank", "0"], "no catalog answers"),
    (["publish", "--checkpoint", "CHECKPOINT", "--layout", "hf", "--rank", "0"],
     "no catalog answers"),
])
def test_a_catalog_that_is_not_there(weft, checkpoint, tmp_path, arguments,
                                     expected):
    arguments = [checkpoint if a == "CHECKPOINT" else a for a in arguments]
    out = tmp_path / "out.safetensors"
    if arguments[0] == "pull":
        arguments += ["--out", out]
    result = weft(*arguments, "--model", "m", "--catalog", "127.0.0.1:1",
                  "--timeout", 5)
    assert result.returncode == 1
    assert expected in result.stderr
    assert not out.exists()


@pytest.mark.parametrize("layout,rank,expected", [
    ("vllm:tp=3", 0, "tp=3"),
    ("vllm:tp=2", 2, "rank 2"),
    ("vllm:speed=9", 0, "speed"),
    ("nonsense:tp=2", 0, "nonsense"),
])
def test_pull_refuses_a_layout_that_cannot_be(weft, start, catalog, checkpoint,
                                              tmp_path, layout, rank, expected):
    publish(start, catalog, checkpoint, "hf", 0).event()
    out = tmp_path / "out.safetensors"
    result = weft("pull", "--catalog", catalog, "--model", "m", "--layout", layout,
                  "--rank", rank, "--out", out, "--timeout", CALL_SECONDS)
    assert result.returncode == 1
    assert expected in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not out.exists()


def test_pull_does_not_touch_a_file_that_exists(weft, start, catalog, checkpoint,
                                                tmp_path):
    publish(start, catalog, checkpoint, "hf", 0).event()
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"mine")
    result = weft("pull", "--catalog", catalog, "--model", "m", "--layout",
                  "vllm:tp=1", "--rank", 0, "--out", out)
    assert result.returncode == 1
    assert str(out) in result.stderr
    assert out.read_bytes() == b"mine"


def test_a_missing_source_rank_is_named(weft, start, catalog, checkpoint,
                                        tmp_path):
    publish(start, catalog, checkpoint, "megatron:pp=2", 0).event()
    assert "1 of 2 ranks" in said_in_vain(
        weft, "pull", "--catalog", catalog, "--model", "m", "--layout",
        "vllm:tp=1", "--rank", 0, "--out", tmp_path / "o.safetensors")


def test_pull_on_a_full_disk(weft, start, catalog, checkpoint, full_disk):
    publish(start, catalog, checkpoint, "hf", 0).event()
    out = full_disk / "out.safetensors"
    result = weft("pull", "--catalog", catalog, "--model", "m", "--layout", "hf",
                  "--rank", 0, "--out", out)
    assert result.returncode == 1
    assert "No space left" in result.stderr and str(out) in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert list(full_disk.iterdir()) == []


def test_staging_stays_within_its_budget(weft, start, catalog, checkpoint,
                                         tmp_path):
    layout = "fsdp:shard=1,tp=2"  # columns: runs of 64 bytes
    for rank in range(2):
        publish(start, catalog, checkpoint, layout, rank, "ucx").event()
    engine = pull(start, catalog, "hf", 0, "ucx", **{"staging-bytes": 8192})
    engine.say("refit")
    report = engine.event()
    assert report["event"] == "refitted", report
    assert 0 < report["staging_peak_bytes"] <= 8192
    assert_holds(weft, engine, checkpoint, "hf", 0, 0, tmp_path / "o.safetensors")
