"""A real vLLM on the CPU, in this process, with Weft's plug-in.

The plug-in is that of the installed package. One thread: OpenMP's barriers are
slow where other work shares the cores.
"""

import importlib.metadata
import importlib.util
import os
import pathlib

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
SMOLLM2 = REPOSITORY / "build" / "smollm2"

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

collect_ignore_glob = []
if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob.append("test_*.py")


@pytest.fixture(scope="session", autouse=True)
def plugin_path():
    """The package weft must be installed: vLLM finds the plug-in by its entry
    point, here and in child processes."""
    names = [point.value for point in
             importlib.metadata.entry_points(group="vllm.general_plugins")]
    assert "weft.vllm.plugin:register" in names, "install the wheel first"


@pytest.fixture(scope="session")
def smollm2():
    if not (SMOLLM2 / "model.safetensors").exists():
        pytest.skip(f"no checkpoint {SMOLLM2}")
    return SMOLLM2
