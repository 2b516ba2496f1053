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


def fingerprint(entry, config):
    command = shlex.split(entry["command"])
    command = [c for c in command if c not in ("ccache", "/usr/bin/ccache")]
    if "-o" in command:
        at = command.index("-o")
        del command[at:at + 2]
    command = [c for c in command if c != "-c"]
    text = subprocess.run(command + ["-E", "-P"], cwd=entry["directory"],
                          capture_output=True).stdout
    return hashlib.sha256(config + text + entry["command"].encode()).hexdigest()


def check(entry, config):
    stamp = STAMPS / fingerprint(entry, config)
    if stamp.exists():
        return entry["file"], 0, "", True
    result = subprocess.run(
        ["clang-tidy", "-p", "build/release", "--quiet", entry["file"]],
        cwd=ROOT, capture_output=True, text=True)
    if result.returncode == 0:
        stamp.touch()
    return entry["file"], result.returncode, result.stdout + result.stderr, False


def main():
    STAMPS.mkdir(parents=True, exist_ok=True)
    config = (ROOT / ".clang-tidy").read_bytes()
    with open(ROOT / "build" / "release" / "compile_commands.json") as file:
        entries = json.load(file)
    prefix = str(ROOT)
    entries = [e for e in entries
               if e["file"].startswith((prefix + "/src", prefix + "/apps"))
               and not e["file"].endswith("_test.cc")]
    failed = fresh = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, code, text, cached in pool.map(lambda e: check(e, config), entries):
            fresh += not cached
            if code != 0:
                failed += 1
                print(f"tidy: {name}\n{text}", file=sys.stderr)
    print(f"tidy: {len(entries)} files, {fresh} checked now, {failed} with findings")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
