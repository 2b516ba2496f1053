"""Hosts for tests: network namespaces that are joined by a bridge and share no
memory. Any of them can be put behind a bad link (link.py)."""

import concurrent.futures
import ctypes
import json
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import threading

import pytest

import link
from conftest import BINARY, SEED
from test_processes import CONFIG, Process, publish

NETWORK = "10.213.77"
TRAINERS = "megatron:pp=2"
CLONE_NEWNET = 0x40000000  # of the kernel's headers
FOLDER = pathlib.Path(__file__).resolve().parent


def sh(*words):
    result = subprocess.run(list(map(str, words)), capture_output=True,
                            text=True, check=False)
    assert result.returncode == 0, f"{words}: {result.stderr}"
    return result.stdout


def needs_network():
    """Why these tests cannot run here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "unshare"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    probe = subprocess.run(["ip", "netns", "add", "weftprobe"],
                           capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        return f"network namespaces are not allowed: {probe.stderr.strip()}"
    sh("ip", "netns", "del", "weftprobe")
    return None


def enter(namespace):
    """The calling thread's network is that of the namespace from now on."""
    with open(f"/run/netns/{namespace}", "rb") as opened:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(opened.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns to {namespace}")


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


class BadLink:
    """A program of link.py, in a namespace of its own between a host and the
    bridge: `outward` is what leaves the host."""

    def __init__(self, host):
        self.name = f"{host.name}link"
        self.seed = SEED + host.number
        print(f"link of {host.name}: seed {self.seed}")
        sh("ip", "netns", "add", self.name)
        # The host's cable goes to the link, another from there to the bridge.
        sh("ip", "link", "set", host.outside, "netns", self.name)
        sh("ip", "-n", self.name, "link", "set", host.outside, "name", "near")
        sh("ip", "link", "add", host.outside, "type", "veth", "peer", "name", "far",
           "netns", self.name)
        sh("ip", "link", "set", host.outside, "master", host.net.bridge, "up")
        for device in ("near", "far"):
            sh("ip", "-n", self.name, "link", "set", device, "up")
        link.send_plain_frames(host.outside)
        host.inside(lambda: link.send_plain_frames(host.device))
        self.child = subprocess.Popen(
            ["ip", "netns", "exec", self.name, sys.executable, FOLDER / "link.py",
             "near", "far", "--seed", str(self.seed)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.child.stdout.readline()  # it runs

    def set(self, **command):
        """Commands of link.py. Returns how many frames became of what."""
        self.child.stdin.write(json.dumps(command) + "\n")
        self.child.stdin.flush()
        answer = json.loads(self.child.stdout.readline())
        return {"cut": answer["cut"], "outward": answer["right"],
                "inward": answer["left"]}

    def close(self):
        self.child.stdin.close()
        try:
            assert self.child.wait(10) == 0, "the link has failed"
        finally:
            self.child.kill()
            self.child.stdout.close()
            sh("ip", "netns", "del", self.name)


class Host:
    """A namespace with one cable to the bridge; `outside` is its other end."""

    def __init__(self, net, number):
        self.name = f"weft{os.getpid()}h{number}"
        self.number = number
        self.address = f"{NETWORK}.{10 + number}"
        self.device = "weft0"
        self.outside = f"wf{os.getpid() % 100000}h{number}"
        self.net = net
        self.link = None
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

    def inside(self, call):
        """call() in a thread of this process that is on the host: a socket that
        it returns stays there."""
        with concurrent.futures.ThreadPoolExecutor(1, initializer=enter,
                                                   initargs=(self.name,)) as one:
            return one.submit(call).result()

    def trouble(self, **command):
        """What link.py takes; the first puts the link there."""
        if self.link is None:
            self.link = BadLink(self)
        return self.link.set(**command)

    def cut(self, is_cut):
        """The cable is drawn, which the host sees."""
        sh("ip", "link", "set", self.outside, "down" if is_cut else "up")

    def received_bytes(self):
        # Of the host's end of the cable, seen from the other side.
        text = sh("cat", f"/sys/class/net/{self.outside}/statistics/tx_bytes")
        return int(text)

    def close(self):
        for process in self.processes:
            process.close()
        if self.link is not None:
            self.link.close()
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
