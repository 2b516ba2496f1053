"""A refit between processes over NIXL, the one that setup brings: the program
starts itself again with the UCX of NIXL (docs/decisions/0018-nixl.md)."""

import pathlib
import sys

import pytest
from test_processes import (assert_holds, catalog, checkpoint, start,  # noqa: F401
                            publish, pull, refits)

FOUND = sorted(pathlib.Path(sys.prefix).glob(
    "lib/python3*/site-packages/.nixl_cu1*.mesonpy.libs/libnixl_capi.so"))


@pytest.mark.skipif(not FOUND, reason="the package nixl-cu13 is not installed")
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


def test_what_to_install_is_said(weft, catalog, checkpoint,  # noqa: F811
                                 monkeypatch):
    monkeypatch.setenv("WEFT_NIXL_LIBRARY", "/nowhere/libnixl_capi.so")
    result = weft("publish", "--catalog", catalog, "--model", "m",
                  "--checkpoint", checkpoint, "--layout", "hf", "--rank", 0,
                  "--transport", "nixl")
    assert result.returncode == 1
    assert "pip install --no-deps nixl-cu13" in result.stderr
