"""A real vLLM on the CPU, in this process, with Weft's plug-in.

The plug-in is found by a .dist-info folder beside which nothing is installed.
One thread: OpenMP's barriers are slow where other work shares the cores.
"""

import importlib.util
import os
import pathlib
import sys
import types

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
PACKAGE = REPOSITORY / "python"
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

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.path.insert(0, str(PACKAGE))
try:
    import weft  # noqa: F401
except ImportError:
    # Nothing here needs the native extension: a fake receiver stands in.
    package = types.ModuleType("weft")
    package.__path__ = [str(PACKAGE / "weft")]
    sys.modules["weft"] = package


@pytest.fixture(scope="session", autouse=True)
def plugin_path(tmp_path_factory):
    """Makes the entry point visible, here and in child processes."""
    folder = tmp_path_factory.mktemp("site")
    info = folder / "weft_under_test-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: weft-under-test\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        "[vllm.general_plugins]\nweft = weft.vllm.plugin:register\n")
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(folder), str(PACKAGE), os.environ.get("PYTHONPATH", "")])
    return folder


@pytest.fixture(scope="session")
def smollm2():
    if not (SMOLLM2 / "model.safetensors").exists():
        pytest.skip(f"no checkpoint {SMOLLM2}")
    return SMOLLM2
