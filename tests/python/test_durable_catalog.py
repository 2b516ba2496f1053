"""Trainers and engines go on while catalogs and their Redis are killed."""

import contextlib
import shutil
import socket
import subprocess
import time

import pytest

from ports import free_port
from test_processes import (  # noqa: F401  (fixtures)
    PATIENCE, assert_holds, await_listed, checkpoint, listing, publish, pull,
    start, wait_for_lease)

LAYOUT = "megatron:pp=2"


class Redis:
    """A redis-server that keeps every write, and may be killed."""

    def __init__(self, folder):
        assert shutil.which("redis-server"), "scripts/setup.sh --all installs it"
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/test"
        self.start()

    def start(self):
        self.child = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1",
             "--dir", str(self.folder), "--save", "", "--appendonly", "yes",
             "--appendfsync", "always"], stdout=subprocess.PIPE, text=True)
        for line in self.child.stdout:
            if "Ready to accept connections" in line:
                return
        self.kill()
        pytest.fail(f"redis-server ended, at port {self.port}")

    def kill(self):
        self.child.kill()
        self.child.wait(PATIENCE)
        self.child.stdout.close()


@pytest.fixture
def redis(tmp_path_factory):
    server = Redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def serve(start, redis):  # noqa: F811
    """serve(address) starts a catalog there: (its process, its address)."""
    def run(address="127.0.0.1:0"):
        process = start("catalog", "--listen", address, "--store", redis.url)
        return process, process.event()["address"]
    return run


def step(trainers, number):
    for process in trainers:
        process.say("step")
    for process in trainers:
        assert process.event()["version"] == f"run:0:{number}"


def refit(engine, number):
    engine.say("poison")
    engine.say(f"refit run:0:{number}")
    report = engine.event()
    assert report["event"] == "refitted", report
    return report


def living(weft, catalog):
    return sorted(w["generation"] for w in listing(weft, "workers", catalog)
                  if w["alive"])


def test_everything_but_the_workers_is_killed_in_turn(
        weft, start, serve, redis, checkpoint, tmp_path):  # noqa: F811
    (one, first), (two, second) = serve(), serve()
    both = f"{first},{second}"
    trainers = [publish(start, both, checkpoint, LAYOUT, r) for r in range(2)]
    for process in trainers:
        assert process.event()["event"] == "published"
    engine = pull(start, both, "vllm:tp=1", 0)
    refit(engine, 0)
    workers = living(weft, both)
    assert len(workers) == 3

    one.kill()
    step(trainers, 1)
    refit(engine, 1)
    one, _ = serve(first)
    two.kill()
    step(trainers, 2)
    refit(engine, 2)
    redis.kill()
    redis.start()
    step(trainers, 3)
    refit(engine, 3)
    one.kill()
    redis.kill()
    redis.start()
    one, _ = serve(first)
    step(trainers, 4)
    assert not refit(engine, 4)["planned"]  # the same sources as ever
    assert_holds(weft, engine, checkpoint, "vllm:tp=1", 0, 4,
                 tmp_path / "out.safetensors")
    # Nobody had to register again.
    assert living(weft, first) == workers


def test_a_catalog_is_killed_under_a_lease(weft, start, serve, checkpoint,  # noqa: F811
                                           tmp_path):
    (one, first), (_, second) = serve(), serve()
    both = f"{first},{second}"
    trainer = publish(start, both, checkpoint, "hf", 0)
    trainer.event()
    engine = start("pull", "--catalog", both, "--model", "m", "--layout",
                   "vllm:tp=1", "--rank", 0, "--transport", "auto", "--control",
                   "stdin", "--timeout", 10, "--inject", "faults")
    engine.say("drop")  # the transfer begins and never ends
    engine.say("refit")
    wait_for_lease(weft, both)
    one.kill()
    failed = engine.event()
    assert failed["event"] == "failed" and failed["fenced"], failed
    # The lease is given back through the other one, which knew of it.
    await_listed(weft, "versions", second, lambda listed: [
        each["leases"] for each in listed] == [0])
    engine.say("refit")
    assert engine.event()["event"] == "refitted"
    trainer.say("step")
    assert trainer.event()["version"] == "run:0:1"
    engine.say("refit run:0:1")
    assert engine.event()["event"] == "refitted"
    assert_holds(weft, engine, checkpoint, "vllm:tp=1", 0, 1,
                 tmp_path / "out.safetensors")


def test_a_catalog_whose_workers_do_not_come_back(weft, start, serve,  # noqa: F811
                                                  checkpoint):
    (one, first), (_, second) = serve(), serve()
    # It knows of the one that dies only.
    trainer = publish(start, first, checkpoint, "hf", 0)
    trainer.event()
    one.kill()
    version, = await_listed(weft, "versions", second, lambda listed: [
        each["state"] for each in listed] == ["GONE"])
    assert "lost its catalog server" in version["reason"]


@pytest.fixture
def an_hour_ahead(tmp_path, monkeypatch):
    """Programs started with it have a clock that is an hour ahead."""
    source, library = tmp_path / "ahead.c", tmp_path / "ahead.so"
    source.write_text("""
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <time.h>
        int clock_gettime(clockid_t which, struct timespec* time) {
          int (*asked)(clockid_t, struct timespec*) =
              dlsym(RTLD_NEXT, "clock_gettime");
          const int failed = asked(which, time);
          if (!failed && which == CLOCK_REALTIME) time->tv_sec += 3600;
          return failed;
        }""")
    subprocess.run(["cc", "-shared", "-fPIC", source, "-o", library, "-ldl"],
                   check=True)

    @contextlib.contextmanager
    def run():
        with monkeypatch.context() as patched:
            patched.setenv("LD_PRELOAD", str(library))
            yield
    return run


def test_catalogs_whose_clocks_differ(weft, start, serve, checkpoint,  # noqa: F811
                                      an_hour_ahead):
    """All time is Redis's: the lease of a worker does not end since a catalog
    comes whose clock is ahead, and when that one has died the others do not
    wait until their clocks say what its did."""
    _, right = serve()
    publish(start, right, checkpoint, "hf", 0).event()
    engine = pull(start, right, "vllm:tp=1", 0, inject="faults")
    engine.say("drop")
    engine.say("refit")
    wait_for_lease(weft, right)
    with an_hour_ahead():
        one, ahead = serve()
        now = subprocess.run(["date", "+%s"], capture_output=True, check=True)
    assert int(now.stdout) > time.time() + 3000
    version, = listing(weft, "versions", ahead)
    assert version["leases"] == 1
    # It knows of the one that dies only.
    trainer = start("publish", "--catalog", ahead, "--model", "other",
                    "--checkpoint", checkpoint, "--layout", "hf", "--rank", 0,
                    "--control", "stdin")
    trainer.event()
    one.kill()
    await_listed(weft, "versions", right, lambda listed: sorted(
        (each["model"], each["state"]) for each in listed) == [
            ("m", "READY"), ("other", "GONE")])


def test_a_store_that_is_not_there(weft):
    result = weft("catalog", "--listen", "127.0.0.1:0", "--store",
                  "redis://127.0.0.1:1")
    assert result.returncode == 1
    assert "no redis answers at 127.0.0.1:1" in result.stderr
    for url in ("etcd://h", "redis://:secret@h"):
        result = weft("catalog", "--listen", "127.0.0.1:0", "--store", url)
        assert result.returncode == 1
        assert url in result.stderr and len(result.stderr.splitlines()) == 1


def test_a_redis_with_a_password_says_where_it_goes(weft, redis):
    with socket.create_connection(("127.0.0.1", redis.port)) as wire:
        wire.sendall(b"CONFIG SET requirepass secret\r\n")
        assert wire.recv(100) == b"+OK\r\n"
    done = weft("catalog", "--listen", "127.0.0.1:0", "--store", redis.url)
    assert done.returncode == 1
    assert "WEFT_REDIS_PASSWORD" in done.stderr
    done = weft("catalog", "--listen", "127.0.0.1:0", "--store",
                redis.url + " x")
    assert "has a character outside [A-Za-z0-9._/-]" in done.stderr
