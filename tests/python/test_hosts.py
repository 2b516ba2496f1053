"""Catalog, trainers and engines on hosts of their own: network namespaces that
are joined by a bridge and share no memory, with links that are slow or cut."""

import json
import os
import queue
import re
import shutil
import subprocess
import threading

import pytest

from conftest import BINARY
from test_processes import (  # noqa: F401  (fixtures)
    CONFIG, PATIENCE, Process, assert_holds, listing, publish,
    wait_for_lease)

NETWORK = "10.213.77"
TRAINERS = "megatron:pp=2"


def sh(*words):
    result = subprocess.run(list(map(str, words)), capture_output=True,
                            text=True, check=False)
    assert result.returncode == 0, f"{words}: {result.stderr}"
    return result.stdout


def needs_network():
    """Why these tests cannot run here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "tc", "unshare"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    probe = subprocess.run(["ip", "netns", "add", "weftprobe"],
                           capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        return f"network namespaces are not allowed: {probe.stderr.strip()}"
    sh("ip", "netns", "del", "weftprobe")
    return None


class HostProcess(Process):
    """A Process on a host: its own network, System V and /dev/shm."""

    def __init__(self, host, *args):
        inside = ["sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh",
                  "env", "UCX_TLS=tcp,self", f"UCX_NET_DEVICES={host.device}",
                  str(BINARY), *map(str, args), "--json"]
        self.child = subprocess.Popen(
            ["ip", "netns", "exec", host.name, "unshare", "--mount", "--ipc",
             *inside], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True)
        self.events = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()


class Host:
    """A namespace with one link to the bridge; `outside` is its other end."""

    def __init__(self, net, number):
        self.name = f"weft{os.getpid()}h{number}"
        self.address = f"{NETWORK}.{10 + number}"
        self.device = "weft0"
        self.outside = f"wf{os.getpid() % 100000}h{number}"
        self.net = net
        self.processes = []
        sh("ip", "netns", "add", self.name)
        sh("ip", "link", "add", self.outside, "type", "veth", "peer", "name",
           self.device, "netns", self.name)
        sh("ip", "link", "set", self.outside, "master", net.bridge, "up")
        sh("ip", "-n", self.name, "addr", "add", f"{self.address}/24", "dev",
           self.device)
        sh("ip", "-n", self.name, "link", "set", self.device, "up")
        sh("ip", "-n", self.name, "link", "set", "lo", "up")

    def start(self, *args):
        self.processes.append(HostProcess(self, *args))
        return self.processes[-1]

    def cut(self, is_cut):
        sh("ip", "link", "set", self.outside, "down" if is_cut else "up")

    def cap(self, kilobits):
        """What leaves the host, at most; None ends it."""
        if kilobits is None:
            sh("tc", "-n", self.name, "qdisc", "del", "dev", self.device, "root")
        else:
            sh("tc", "-n", self.name, "qdisc", "replace", "dev", self.device,
               "root", "tbf", "rate", f"{kilobits}kbit", "burst", "16kb",
               "latency", "400ms")

    def received_bytes(self):
        # Of the host's end of the link, seen from the other side.
        text = sh("cat", f"/sys/class/net/{self.outside}/statistics/tx_bytes")
        return int(text)

    def close(self):
        for process in self.processes:
            process.close()
        subprocess.run(["ip", "link", "del", self.outside], check=False,
                       capture_output=True)
        sh("ip", "netns", "del", self.name)


class Net:
    def __init__(self):
        self.bridge = f"wf{os.getpid() % 100000}br"
        self.hosts = []
        sh("ip", "link", "add", self.bridge, "type", "bridge")
        sh("ip", "addr", "add", f"{NETWORK}.1/24", "dev", self.bridge)
        sh("ip", "link", "set", self.bridge, "up")

    def host(self):
        self.hosts.append(Host(self, len(self.hosts)))
        return self.hosts[-1]

    def close(self):
        for host in self.hosts:
            host.close()
        sh("ip", "link", "del", self.bridge)


@pytest.fixture
def net():
    reason = needs_network()
    if reason:
        pytest.skip(reason)
    made = Net()
    yield made
    made.close()


@pytest.fixture
def checkpoint(weft, tmp_path):
    """2.1 MB, so that a capped link is busy for some seconds."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**CONFIG, "vocab_size": 8000}))
    folder = tmp_path / "checkpoint"
    result = weft("synth", "--config", config, "--out", folder)
    assert result.returncode == 0, result.stderr
    return folder


class Fleet:
    """A catalog, two trainers and engines, each on its own host."""

    def __init__(self, net, checkpoint, num_engines=1):
        self.checkpoint = checkpoint
        catalog = net.host()
        self.catalog_host = catalog
        self.catalog = catalog.start(
            "catalog", "--listen", f"{catalog.address}:0").event()["address"]
        self.trainer_hosts = [net.host() for _ in range(2)]
        self.trainers = [self.trainer(rank) for rank in range(2)]
        for process in self.trainers:
            assert process.event()["event"] == "published"
        self.engine_hosts = [net.host() for _ in range(num_engines)]
        self.engines = [self.engine(i) for i in range(num_engines)]

    def trainer(self, rank, version="run:0:0"):
        return publish(self.trainer_hosts[rank].start, self.catalog,
                       self.checkpoint, TRAINERS, rank, version=version)

    def engine(self, index, timeout=20):
        return self.engine_hosts[index].start(
            "pull", "--catalog", self.catalog, "--model", "m", "--layout",
            "vllm:tp=1", "--rank", 0, "--transport", "auto", "--control",
            "stdin", "--timeout", timeout)

    def step(self, number):
        for process in self.trainers:
            process.say("step")
        for process in self.trainers:
            assert process.event()["version"] == f"run:0:{number}"


def refit(engine):
    engine.say("poison")
    engine.say("refit")
    event = engine.event()
    assert event["event"] == "refitted", event
    return event


def heal(engine, attempts=5):
    """A refit after a cut: TCP sends again what was lost in steps that double,
    so that the first deadlines may pass before it does."""
    for _ in range(attempts):
        engine.say("refit")
        event = engine.event()
        if event["event"] == "refitted":
            return
        assert event["event"] == "failed" and event["fenced"], event
    raise AssertionError(event)


def test_weights_cross_hosts_by_tcp_alone(weft, net, checkpoint, tmp_path):
    fleet = Fleet(net, checkpoint)
    engine, = fleet.engines
    for number in range(3):
        if number:
            fleet.step(number)
        before = fleet.engine_hosts[0].received_bytes()
        event = refit(engine)
        arrived = fleet.engine_hosts[0].received_bytes() - before
        assert {peer["transport"] for peer in event["peers"]} == {"ucx"}
        assert arrived >= event["bytes"], (arrived, event)
        assert_holds(weft, engine, checkpoint, "vllm:tp=1", 0, number,
                     tmp_path / "out.safetensors")


@pytest.mark.parametrize("who", ["engine", "trainer"])
def test_a_link_is_cut_in_mid_refit(weft, net, checkpoint, tmp_path, who):
    fleet = Fleet(net, checkpoint)
    engine = fleet.engine(0, timeout=4)
    refit(engine)
    fleet.step(1)
    for host in fleet.trainer_hosts:
        host.cap(2000)
    host = (fleet.engine_hosts if who == "engine" else fleet.trainer_hosts)[0]
    engine.say("poison")
    engine.say("refit")
    wait_for_lease(weft, fleet.catalog)
    host.cut(True)
    failed = engine.event()
    assert failed["event"] == "failed" and failed["fenced"], failed
    host.cut(False)
    for trainer_host in fleet.trainer_hosts:
        trainer_host.cap(None)
    # It was cut for less than a worker is missed: all goes on as before.
    assert engine.child.poll() is None
    heal(engine)
    fleet.step(2)
    refit(engine)
    assert_holds(weft, engine, checkpoint, "vllm:tp=1", 0, 2,
                 tmp_path / "out.safetensors")


def test_a_trainer_is_cut_off_for_good(weft, net, checkpoint, tmp_path):
    fleet = Fleet(net, checkpoint)
    engine, = fleet.engines
    refit(engine)
    fleet.trainer_hosts[1].cut(True)
    # The catalog misses it, and no engine is sent to it any more.
    for _ in range(1200):
        states = [v["state"] for v in listing(weft, "versions", fleet.catalog)]
        if states == ["GONE"]:
            break
        threading.Event().wait(0.05)
    else:
        pytest.fail(f"versions are {states} 60 s after the cut")
    for process in fleet.trainers:
        process.kill()
    fleet.trainer_hosts[1].cut(False)
    # The job under the same names again, as an operator would start it.
    fleet.trainers = [fleet.trainer(rank, version="run:1:0") for rank in range(2)]
    for process in fleet.trainers:
        assert process.event()["version"] == "run:1:0"
    assert refit(engine)["version"] == "run:1:0"
    assert_holds(weft, engine, checkpoint, "vllm:tp=1", 0, 0,
                 tmp_path / "out.safetensors")


def test_receivers_share_a_capped_link(net, checkpoint):
    fleet = Fleet(net, checkpoint, num_engines=2)
    for engine in fleet.engines:
        refit(engine)
    fleet.step(1)
    for host in fleet.trainer_hosts:
        host.cap(12000)
    before = [host.received_bytes() for host in fleet.engine_hosts]
    for engine in fleet.engines:
        engine.say("refit")
    first = None
    while first is None:
        for index, engine in enumerate(fleet.engines):
            if not engine.events.empty():
                first = index
        threading.Event().wait(0.005)
    got = [host.received_bytes() - was
           for host, was in zip(fleet.engine_hosts, before)]
    assert got[1 - first] >= got[first] / 3, got
    for engine in fleet.engines:
        assert engine.event()["event"] == "refitted"


@pytest.mark.parametrize("trouble", [["delay", "40ms"], ["loss", "2%"]])
def test_a_bad_link(weft, net, checkpoint, tmp_path, trouble):
    fleet = Fleet(net, checkpoint)
    for host in (*fleet.trainer_hosts, *fleet.engine_hosts):
        result = subprocess.run(
            ["tc", "-n", host.name, "qdisc", "add", "dev", host.device, "root",
             "netem", *trouble], capture_output=True, text=True, check=False)
        if re.search("kind is unknown|not found", result.stderr):
            pytest.skip("this kernel has no sch_netem, which delays and loses")
        assert result.returncode == 0, result.stderr
    engine, = fleet.engines
    for number in range(2):
        if number:
            fleet.step(number)
        refit(engine)
        assert_holds(weft, engine, checkpoint, "vllm:tp=1", 0, number,
                     tmp_path / "out.safetensors")
