"""Commands end on SIGTERM and SIGINT and when nobody takes what they print, and
take their processes with them.

`weft bench` went on to its end: the program blocked both signals for all of its
commands, and only those that serve until ctrl-c took them.
"""

import pathlib
import re
import signal
import subprocess
import time

import pytest

from conftest import BINARY
from test_processes import catalog, checkpoint, publish, start  # noqa: F401

PATIENCE = 120  # seconds; a bound, not an expectation


def stat_of(pid):
    """(state, parent) of a process; None when it is gone."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent = stat.rpartition(")")[2].split()[:2]
    return state, int(parent)


def words_of(pid):
    """The command line of a process; empty when it is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def children_of(pid):
    found = [int(entry.name) for entry in pathlib.Path("/proc").iterdir()
             if entry.name.isdigit()]
    return [each for each in found
            if (stat := stat_of(each)) is not None and stat[1] == pid]


def wait_until(holds, what):
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"still waiting until {what}"
        time.sleep(0.01)


def has_ended(pid):
    """Gone, or a zombie that waits for whoever inherited it."""
    stat = stat_of(pid)
    return stat is None or stat[0] in "ZX"


def heed_interrupts():
    """A shell's background jobs ignore them, and what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_benchmark_ends_with_its_processes(number):
    # More runs than anyone waits for: a catalog and two sources serve them.
    bench = subprocess.Popen(
        [BINARY, "bench", "refit", "--bytes", str(64 << 20), "--runs", "1000"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=heed_interrupts)
    try:
        wait_until(lambda: len(children_of(bench.pid)) >= 2,
                   "the benchmark has started its processes")
        children = children_of(bench.pid)
        bench.send_signal(number)
        assert bench.wait(PATIENCE) == -number
        wait_until(lambda: all(map(has_ended, children)),
                   f"the processes {children} of the benchmark have ended")
    finally:
        bench.kill()
        bench.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_demo_ends_with_its_processes_and_its_folder(number):
    # It went on to its end: ctrl-c in `make demo` did nothing.
    demo = subprocess.Popen(
        [BINARY, "demo", "--versions", "1000"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        preexec_fn=heed_interrupts)
    try:
        for line in demo.stdout:
            if "processes are up" in line:
                break
        children = children_of(demo.pid)
        assert len(children) >= 3
        # One that only verifies a file may have ended since.
        folders = {match for child in children for match in re.findall(
            r"(/(?:dev/shm|tmp)/weft_demo\.\w+)", words_of(child))}
        assert len(folders) == 1 and pathlib.Path(*folders).is_dir()
        demo.send_signal(number)
        assert demo.wait(PATIENCE) == -number
        wait_until(lambda: all(map(has_ended, children)),
                   f"the processes {children} of the demo have ended")
        assert not pathlib.Path(*folders).exists()
    finally:
        demo.kill()
        demo.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_serves_ends_in_order(number):
    catalog = subprocess.Popen(
        [BINARY, "catalog", "--listen", "127.0.0.1:0", "--json"],
        stdout=subprocess.PIPE, text=True)
    try:
        assert "address" in catalog.stdout.readline()
        catalog.send_signal(number)
        assert catalog.wait(PATIENCE) == 0
    finally:
        catalog.kill()
        catalog.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_engine_that_waits_for_a_version_ends_at_once(number,
                                                         catalog):  # noqa: F811
    """It ended with its --timeout."""
    engine = subprocess.Popen(
        [BINARY, "pull", "--catalog", catalog, "--model", "m", "--layout", "hf",
         "--rank", "0", "--serve", "--timeout", str(10 * PATIENCE)],
        stderr=subprocess.PIPE, text=True)
    try:
        blocked = f"/proc/{engine.pid}/status"
        wait_until(lambda: any(
            int(line.split()[1], 16) >> (number - 1) & 1
            for line in open(blocked) if line.startswith("SigBlk")),
            "the engine serves until it is stopped")
        engine.send_signal(number)
        assert engine.wait(PATIENCE) == 1
        assert "stopped while it waited" in engine.stderr.read()
    finally:
        engine.kill()
        engine.wait()


def run_into_a_full_disk(*words):
    with open("/dev/full", "w") as full:
        return subprocess.run([BINARY, *words], stdout=full, timeout=PATIENCE,
                              stderr=subprocess.PIPE, text=True)


def test_output_that_is_lost_is_an_error(start, catalog, checkpoint):  # noqa: F811
    # They ended with exit code 0, or went on for ever.
    publish(start, catalog, checkpoint, "hf", 0).event()
    at = ["--catalog", catalog]
    for words in (["plan", "--config", checkpoint, "--from", "fsdp:shard=2",
                   "--to", "vllm:tp=2", "--json"],
                  ["status", *at], ["status", "--watch", *at],
                  ["events", *at], ["events", "--follow", *at]):
        done = run_into_a_full_disk(*words)
        assert done.returncode == 1, words
        assert "standard output: No space left" in done.stderr, words
