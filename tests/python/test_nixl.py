"""A refit between processes over NIXL, the one that setup brings: the program
starts itself again with the UCX of NIXL (docs/decisions/0018-nixl.md)."""

import os
import pathlib
import sys

import pytest
from test_processes import (assert_holds, catalog, checkpoint, start,  # noqa: F401
                            publish, pull, refits)


def find_library():
    named = os.environ.get("WEFT_NIXL_LIBRARY")
    return [pathlib.Path(named)] if named else sorted(
        pathlib.Path(sys.prefix).glob(
            "lib/python3*/site-packages/.nixl_cu1*.mesonpy.libs/libnixl_capi.so"))


FOUND = find_library()
needs_nixl = pytest.mark.skipif(
    not FOUND, reason="NIXL is not installed: scripts/setup.sh brings it, or "
    "pip install --no-deps nixl-cu13")


@needs_nixl
def test_versions_arrive_over_nixl(weft, start, catalog, checkpoint,  # noqa: F811
                                   tmp_path, monkeypatch):
    monkeypatch.setenv("WEFT_NIXL_LIBRARY", str(FOUND[0]))
    trainers = [publish(start, catalog, checkpoint, "megatron:tp=2", r, "nixl")
                for r in range(2)]
    for process in trainers:
        assert process.event()["event"] == "published"
    engines = [pull(start, catalog, "vllm:tp=1", 0, "nixl")]
    for step, rank, process, report in refits(trainers, engines, 2):
        assert_holds(weft, process, checkpoint, "vllm:tp=1", rank, step,
                     tmp_path / "out.safetensors")


def mapped_files(process):
    """Names of the files that a process has mapped."""
    maps = pathlib.Path(f"/proc/{process.child.pid}/maps").read_text("utf-8")
    return {line.split(maxsplit=5)[5] for line in maps.splitlines()
            if "/" in line}


def loader_folders(process):
    """LD_LIBRARY_PATH that a process was started with, split."""
    environment = pathlib.Path(f"/proc/{process.child.pid}/environ").read_bytes()
    for setting in environment.decode().split("\0"):
        name, _, value = setting.partition("=")
        if name == "LD_LIBRARY_PATH":
            return [pathlib.Path(folder) for folder in value.split(":")]
    return []


@needs_nixl
def test_one_ucx_with_all_its_modules(start, catalog, checkpoint,  # noqa: F811
                                      monkeypatch):
    """Once loaded by the name of a link, UCX looked for its modules under the
    link's ending, found none, and moved host memory through tcp."""
    monkeypatch.setenv("WEFT_NIXL_LIBRARY", str(FOUND[0]))
    process = publish(start, catalog, checkpoint, "hf", 0, "nixl")
    assert process.event()["event"] == "published"
    bundled = FOUND[0].resolve().parents[1] / "nixl_cu13.libs"
    files = mapped_files(process)
    ucp = [name for name in files if pathlib.Path(name).name.startswith("libucp")]
    assert [pathlib.Path(name).parent for name in ucp] == [bundled]
    for module in bundled.glob("ucx/libuct_cma.so*"):
        assert str(module) in files
    # The folder of links is there for the loader and gone afterwards.
    folders = loader_folders(process)
    assert folders[0] == bundled
    assert folders[1].name.startswith("weft-ucx-")
    assert not folders[1].exists()


def test_what_to_install_is_said(weft, catalog, checkpoint,  # noqa: F811
                                 monkeypatch):
    monkeypatch.setenv("WEFT_NIXL_LIBRARY", "/nowhere/libnixl_capi.so")
    result = weft("publish", "--catalog", catalog, "--model", "m",
                  "--checkpoint", checkpoint, "--layout", "hf", "--rank", 0,
                  "--transport", "nixl")
    assert result.returncode == 1
    assert "pip install --no-deps nixl-cu13" in result.stderr
    doctor = weft("doctor")
    assert doctor.returncode == 0
    assert "nixl: there is no nixl library" in doctor.stdout
