"""The binary under test: WEFT_BIN, by default build/release/bin/weft."""

import os
import pathlib
import subprocess
import time

import pytest

PATIENCE = 600  # seconds; a bound, not an expectation

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(
    os.environ.get("WEFT_BIN", REPOSITORY / "build/release/bin/weft"))

# Random cases derive from this; set it to repeat a run.
SEED = int(os.environ.get("WEFT_TEST_SEED", time.time_ns() % 2**31))


def pytest_report_header():
    return f"WEFT_TEST_SEED={SEED} WEFT_BIN={BINARY}"


def pytest_terminal_summary(terminalreporter, exitstatus):
    if exitstatus:  # -q shows no header
        terminalreporter.write_line(pytest_report_header())


@pytest.fixture
def weft():
    """weft(args...) runs the program and returns its CompletedProcess."""
    if not BINARY.exists():
        pytest.fail(f"no program {BINARY}; build it or set WEFT_BIN")

    def run(*args):
        return subprocess.run([str(BINARY), *map(str, args)],
                              capture_output=True, text=True, timeout=PATIENCE,
                              check=False)

    return run


@pytest.fixture
def full_disk(tmp_path):
    """A file system of 64 KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder],
        capture_output=True, check=False)
    if mount.returncode != 0:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", folder], check=True)
