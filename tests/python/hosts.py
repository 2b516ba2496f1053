"""Hosts for tests: network namespaces that are joined by a bridge, in one more, and
share no memory. Any of them can be put behind a bad link (link.py). The network of
the machine is left as it is: UCX of other tests would meet devices that go away."""

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
import time

import pytest

import link
from conftest import BINARY, SEED
from test_processes import (
    CALL_SECONDS, CONFIG, PATIENCE, Process, listing, publish)

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
    # Of this process: another run may ask at the same moment.
    name = f"weft{os.getpid()}probe"
    probe = subprocess.run(["ip", "netns", "add", name],
                           capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        return f"network namespaces are not allowed: {probe.stderr.strip()}"
    sh("ip", "netns", "del", name)
    return None


def enter(namespace):
    """The calling thread's network is that of the namespace from now on."""
    with open(f"/run/netns/{namespace}", "rb") as opened:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(opened.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns to {namespace}")


def inside(namespace, call):
    """call() in a thread of this process whose network is that of the namespace: a
    socket that it returns stays there."""
    with concurrent.futures.ThreadPoolExecutor(1, initializer=enter,
                                               initargs=(namespace,)) as one:
        return one.submit(call).result()


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
        host.net.ip("link", "set", host.outside, "netns", self.name)
        sh("ip", "-n", self.name, "link", "set", host.outside, "name", "near")
        host.net.plug(host.outside, "far", self.name)
        for device in ("near", "far"):
            sh("ip", "-n", self.name, "link", "set", device, "up")
        inside(host.net.name, lambda: link.send_plain_frames(host.outside))
        inside(host.name, lambda: link.send_plain_frames(host.device))
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
            assert self.child.wait(PATIENCE) == 0, "the link has failed"
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
        self.outside = f"host{number}"
        self.net = net
        self.link = None
        self.processes = []
        sh("ip", "netns", "add", self.name)
        net.plug(self.outside, self.device, self.name)
        sh("ip", "-n", self.name, "addr", "add", f"{self.address}/24", "dev",
           self.device)
        sh("ip", "-n", self.name, "link", "set", self.device, "up")
        sh("ip", "-n", self.name, "link", "set", "lo", "up")

    def start(self, *args):
        self.processes.append(HostProcess(self, *args))
        return self.processes[-1]

    def trouble(self, **command):
        """What link.py takes; the first puts the link there."""
        if self.link is None:
            self.link = BadLink(self)
        return self.link.set(**command)

    def cut(self, is_cut):
        """The cable is drawn, which the host sees."""
        self.net.ip("link", "set", self.outside, "down" if is_cut else "up")

    def received_bytes(self):
        # Of the host's end of the cable, seen from the other side.
        link_of, = json.loads(self.net.ip("-s", "-j", "link", "show", self.outside))
        return link_of["stats64"]["tx"]["bytes"]

    def close(self):
        for process in self.processes:
            process.close()
        if self.link is not None:
            self.link.close()
        sh("ip", "netns", "del", self.name)


class Net:
    """The bridge, in a namespace of its own."""

    def __init__(self):
        self.name = f"weft{os.getpid()}net"
        self.hosts = []
        sh("ip", "netns", "add", self.name)
        self.ip("link", "add", "bridge", "type", "bridge")
        self.ip("addr", "add", f"{NETWORK}.1/24", "dev", "bridge")
        self.ip("link", "set", "bridge", "up")

    def ip(self, *words):
        return sh("ip", "-n", self.name, *words)

    def plug(self, port, device, namespace):
        """A cable from a port of the bridge to a device of another namespace."""
        self.ip("link", "add", port, "type", "veth", "peer", "name", device,
                "netns", namespace)
        self.ip("link", "set", port, "master", "bridge", "up")

    def weft(self, *args):
        """The program, run beside the bridge: its CompletedProcess."""
        return subprocess.run(
            ["ip", "netns", "exec", self.name, str(BINARY), *map(str, args)],
            capture_output=True, text=True, timeout=120, check=False)

    def host(self):
        self.hosts.append(Host(self, len(self.hosts)))
        return self.hosts[-1]

    def close(self):
        for host in self.hosts:
            host.close()
        sh("ip", "netns", "del", self.name)


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


def until(ask, holds, patience=PATIENCE):
    """What ask() says, once it is as wanted."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if holds(said := ask()):
            return said
        threading.Event().wait(0.02)
    pytest.fail(f"it never came to it: {said}")


class Fleet:
    """A catalog, two trainers and engines, each on its own host."""

    def __init__(self, net, checkpoint, num_engines=1):
        self.net = net
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

    def engine(self, index, timeout=CALL_SECONDS):
        """One that the catalog knows: links may become bad now."""
        before = self._receivers()
        engine = self.engine_hosts[index].start(
            "pull", "--catalog", self.catalog, "--model", "m", "--layout",
            "vllm:tp=1", "--rank", 0, "--transport", "auto", "--control",
            "stdin", "--timeout", timeout)
        until(self._receivers, lambda receivers: receivers - before)
        return engine

    def _receivers(self):
        return {worker["generation"]
                for worker in listing(self.net.weft, "workers", self.catalog)
                if worker["role"] == "receiver"}

    def versions(self):
        return listing(self.net.weft, "versions", self.catalog)

    def step(self, number):
        for process in self.trainers:
            process.say("step")
        for process in self.trainers:
            event = process.event()
            assert event.get("version") == f"run:0:{number}", event


def refit(engine):
    engine.say("poison")
    engine.say("refit")
    event = engine.event()
    assert event.get("event") == "refitted", event
    return event
