"""python -m weft doctor: it tells, whatever is absent."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

weft = pytest.importorskip("weft")
doctor = pytest.importorskip("weft.doctor")

NAMES = ["Python", "weft", "torch", "UCX", "RDMA", "vLLM", "shared memory",
         "process_vm_readv", "RLIMIT_MEMLOCK"]


def run(*args, flags=(), **environment):
    here = str(pathlib.Path(weft.__file__).parents[1])
    return subprocess.run(
        [sys.executable, *flags, "-m", "weft", *args], capture_output=True,
        text=True, timeout=120, check=False,
        env=os.environ | {"PYTHONPATH": here} | environment)


def findings_of(result):
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    found = {finding["name"]: finding for finding in report["findings"]}
    assert list(found) == NAMES
    return found, report["between_processes"]


def test_table():
    result = run("doctor")
    assert result.returncode == 0 and result.stderr == ""
    for name in NAMES:
        assert sum(line.startswith(name + " ")
                   for line in result.stdout.splitlines()) == 1, name
    assert weft.__version__ in result.stdout
    assert result.stdout.count("between two processes of this host: ") == 1


def test_without_packages_and_ucx(tmp_path):
    """-S: a Python without site-packages, as if nothing but weft were there."""
    (tmp_path / "weft").symlink_to(pathlib.Path(weft.__file__).parent)
    found, between = findings_of(run("doctor", "--json", flags=("-S",),
                                     WEFT_UCX_LIB_DIR="/nowhere",
                                     PYTHONPATH=str(tmp_path)))
    for name in ("torch", "UCX", "vLLM"):
        assert not found[name]["is_there"] and found[name]["how"], name
    assert found["weft"]["is_there"]
    assert not any("cannot be told" in f["value"] for f in found.values())
    readable = found["process_vm_readv"]["is_there"]
    assert between["transport"] == ("shm" if readable else "none")


def test_unknown_command():
    assert run("nonsense").returncode == 2
    assert run().returncode == 2


@pytest.mark.parametrize("missing, transport", [
    ((), "shm"), (("UCX",), "shm"), (("process_vm_readv", "UCX"), "none"),
    (("weft",), "none")])
def test_what_would_be_used(missing, transport):
    findings = [doctor.Finding(name, name not in missing, "") for name in NAMES]
    assert doctor.between_processes(findings)[0] == transport


@pytest.mark.parametrize("scope, transport", [("1", "ucx"), ("0", "none")])
def test_a_host_that_refuses_foreign_memory(monkeypatch, tmp_path, scope, transport):
    """With scope 0 weft takes shm, and a container's filter then stops it."""
    (tmp_path / "scope").write_text(scope + "\n")
    monkeypatch.setattr(doctor, "_PTRACE_SCOPE", tmp_path / "scope")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    findings = [doctor.Finding(name, name != "process_vm_readv", "")
                for name in NAMES]
    assert doctor.between_processes(findings)[0] == transport


def test_a_check_that_breaks_is_a_finding():
    def broken():
        raise OSError("no such file")
    finding = doctor._guarded("x", broken)
    assert not finding.is_there and "no such file" in finding.value
