"""A catalog in memory is killed and started again, or connections to it are cut:
publishers and receivers take their places again by themselves."""

import contextlib
import json
import pathlib
import socket
import sys
import threading

import pytest

from test_processes import (  # noqa: F401  (fixtures)
    assert_holds, await_listed, checkpoint, listing, publish, pull,
    said_in_vain, start)

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "scripts"))
import check_events  # noqa: E402

LAYOUT = "megatron:pp=2"


@pytest.fixture
def relay():
    """relay(port) makes a Relay that ends with the test."""
    made = []

    def make(port):
        made.append(Relay(port))
        return made[-1]

    yield make
    for each in made:
        each.close()


class Relay:
    """Carries connections to a port of this host, and cuts all at once."""

    def __init__(self, port):
        self.port = port
        self.lock = threading.Lock()
        self.pairs = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.port))
            except OSError:
                return
            with self.lock:
                self.pairs.append((near, far))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=pair,
                                 daemon=True).start()

    @staticmethod
    def _carry(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self):
        with self.lock:
            pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()


def refit(engine, number):
    engine.say("poison")
    engine.say(f"refit run:0:{number}")
    report = engine.event()
    assert report["event"] == "refitted", report


def test_a_catalog_in_memory_is_killed_and_started_again(
        weft, start, checkpoint, tmp_path):  # noqa: F811
    events = tmp_path / "events"
    process = start("catalog", "--listen", "127.0.0.1:0", "--events", events)
    catalog = process.event()["address"]
    trainers = [publish(start, catalog, checkpoint, LAYOUT, r) for r in range(2)]
    for trainer in trainers:
        assert trainer.event()["event"] == "published"
    engine = pull(start, catalog, "vllm:tp=1", 0)
    refit(engine, 0)
    generations = {w["generation"] for w in listing(weft, "workers", catalog)}

    for number in range(2):
        process.kill()
        process = start("catalog", "--listen", catalog, "--events", events)
        assert process.event()["address"] == catalog
        # Nobody is told to do anything: the version is there again.
        await_listed(weft, "versions", catalog, lambda listed, number=number: [
            (v["version"], v["state"]) for v in listed] == [
                (f"run:0:{number}", "READY")])
        workers = await_listed(weft, "workers", catalog,
                               lambda listed: len(listed) == 3)
        assert all(w["alive"] for w in workers)
        assert not generations & {w["generation"] for w in workers}
        late = pull(start, catalog, "vllm:tp=1", 0)
        refit(late, number)
        assert_holds(weft, late, checkpoint, "vllm:tp=1", 0, number,
                     tmp_path / f"late{number}.safetensors")
        late.close()

        for trainer in trainers:
            trainer.say("step")
        for trainer in trainers:
            assert trainer.event()["version"] == f"run:0:{number + 1}"
        refit(engine, number + 1)
        assert_holds(weft, engine, checkpoint, "vllm:tp=1", 0, number + 1,
                     tmp_path / f"{number}.safetensors")
    assert check_events.check([events])[0] == []


def test_connections_are_cut_and_nobody_ends(weft, start, checkpoint,  # noqa: F811
                                               relay, tmp_path):
    catalog = start("catalog", "--listen", "127.0.0.1:0").event()["address"]
    link = relay(int(catalog.rpartition(":")[2]))
    trainer = publish(start, link.address, checkpoint, "hf", 0)
    assert trainer.event()["event"] == "published"
    engine = pull(start, link.address, "vllm:tp=1", 0)
    refit(engine, 0)
    for number in range(1, 4):
        link.cut()
        trainer.say("step")
        assert trainer.event()["version"] == f"run:0:{number}"
        refit(engine, number)
        assert_holds(weft, engine, checkpoint, "vllm:tp=1", 0, number,
                     tmp_path / f"{number}.safetensors")
    await_listed(weft, "workers", catalog, lambda listed: sorted(
        w["role"] for w in listed if w["alive"]) == ["publisher", "receiver"])


def test_what_a_person_sees_of_a_rank_that_was_cut_off(
        weft, start, checkpoint, relay):  # noqa: F811
    """The catalog and all processes live on: the version stays GONE until the
    next step, and whoever looks or waits is told so in one sentence."""
    catalog = start("catalog", "--listen", "127.0.0.1:0").event()["address"]
    link = relay(int(catalog.rpartition(":")[2]))
    trainers = [publish(start, address, checkpoint, LAYOUT, rank,
                        version="run:1:7")
                for rank, address in enumerate([catalog, link.address])]
    for trainer in trainers:
        assert trainer.event()["event"] == "published"
    engine = pull(start, catalog, "vllm:tp=1", 0)
    engine.say("refit")
    assert engine.event()["version"] == "run:1:7"

    link.cut()
    why = ("publisher rank 1 lost its connection and is back; the next step "
           "heals it")
    await_listed(weft, "versions", catalog, lambda listed: [
        (v["version"], v["state"], v["reason"]) for v in listed] == [
            ("run:1:7", "GONE", why)])
    screen = weft("status", "--catalog", catalog).stdout
    assert [line.split(maxsplit=3) for line in screen.splitlines()
            if line.startswith("run:1:7")] == [["run:1:7", "GONE", "2/2", why]]
    assert f"newest is run:1:7 GONE ({why})" in said_in_vain(
        weft, "pull", "--catalog", catalog, "--model", "m", "--layout",
        "vllm:tp=1", "--rank", 0, "--out", "none")
    engine.say("refit run:1:7")
    assert engine.event()["error"] == (
        f'version run:1:7 of model "m" is GONE: {why}')

    for trainer in trainers:
        trainer.say("step")
        assert trainer.event()["version"] == "run:1:8"
    engine.say("refit run:1:8")
    assert engine.event()["version"] == "run:1:8"
    trainers[1].child.terminate()
    said = trainers[1].child.stderr.read()
    assert (f'run:1:7 is not published again: version run:1:7 of model "m" is '
            f"GONE: {why}") in said, said
