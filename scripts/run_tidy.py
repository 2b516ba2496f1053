#!/usr/bin/env python3
"""clang-tidy over the sources of the release build, results cached by content.

A file whose preprocessed text, .clang-tidy and compile command are the same as
when it last passed is not checked again: .deps/tidy holds the stamps.
"""
import concurrent.futures
import hashlib
import json
import os
import pathlib
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
STAMPS = ROOT / ".deps" / "tidy"
JOINED = ROOT / "build" / "tidy"


BATCH = 8  # as CMake's UNITY_BUILD, which the sanitizer builds prove to compile


def arguments(entry):
    """The compiler's arguments: without launcher, compiler, output, source."""
    command = [c for c in shlex.split(entry["command"])
               if c not in ("ccache", "/usr/bin/ccache")][1:]
    at = command.index("-o")
    del command[at:at + 2]
    return [c for c in command if c not in ("-c", entry["file"])]


def batches(entries):
    """(source, arguments, directory): the files of a room together, since most
    of the time goes into the headers that they share; the rest one by one."""
    rooms = {}
    for entry in sorted(entries, key=lambda entry: entry["file"]):
        file = pathlib.Path(entry["file"])
        key = (file.parent, tuple(arguments(entry)))
        # Highway compiles a file once a target; programs and test support may
        # use one name twice.
        if (ROOT / "apps") in file.parents or file.parent.name in (
                "cpu", "testing"):
            key = (file, key[1])
        rooms.setdefault(key, []).append(entry)
    JOINED.mkdir(parents=True, exist_ok=True)
    for (folder, flags), members in rooms.items():
        for begin in range(0, len(members), BATCH):
            part = members[begin:begin + BATCH]
            source = part[0]["file"]
            if len(part) > 1:
                name = str(folder.relative_to(ROOT)).replace("/", "_")
                source = JOINED / f"{name}_{begin // BATCH}.cc"
                source.write_text("".join(f'#include "{each["file"]}"\n'
                                          for each in part))
            yield str(source), list(flags), part[0]["directory"]


def check(source, flags, directory, config):
    text = subprocess.run(["c++", *flags, "-E", "-P", source], cwd=directory,
                          capture_output=True).stdout
    stamp = STAMPS / hashlib.sha256(
        config + text + " ".join(flags).encode()).hexdigest()
    if stamp.exists():
        return source, 0, "", True
    result = subprocess.run(
        ["clang-tidy", "--quiet", f"--config-file={ROOT / '.clang-tidy'}",
         source, "--", *flags],
        cwd=directory, capture_output=True, text=True)
    if result.returncode == 0:
        stamp.touch()
    return source, result.returncode, result.stdout + result.stderr, False


def main():
    STAMPS.mkdir(parents=True, exist_ok=True)
    config = (ROOT / ".clang-tidy").read_bytes()
    with open(ROOT / "build" / "release" / "compile_commands.json") as file:
        entries = json.load(file)
    prefix = str(ROOT)
    entries = [e for e in entries
               if e["file"].startswith((prefix + "/src", prefix + "/apps"))
               # clang 14 knows no CUDA 13.
               and not e["file"].endswith(("_test.cc", ".cu"))]
    failed = fresh = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = list(batches(entries))
        for name, code, text, cached in pool.map(
                lambda job: check(*job, config), jobs):
            fresh += not cached
            if code != 0:
                failed += 1
                print(f"tidy: {name}\n{text}", file=sys.stderr)
    print(f"tidy: {len(entries)} files in {len(jobs)} batches, {fresh} checked "
          f"now, {failed} with findings")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
