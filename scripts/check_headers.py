#!/usr/bin/env python3
"""Every public header under src/weft compiles alone, and leaks no foreign one.

Public: not *_internal.h and not in a leaf that owns a foreign library. Foreign
here: any library of rooms.toml; Abseil is part of the interfaces.
"""
import concurrent.futures
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
SRC = ROOT / "src"


def foreign_prefixes():
    with open(ROOT / "rooms.toml", "rb") as file:
        rooms = tomllib.load(file)
    prefixes = set()
    for room in rooms.values():
        prefixes.update(room.get("foreign", []))
        for leaf in room.get("leaves", {}).values():
            prefixes.update(leaf.get("foreign", []))
    return sorted(prefixes)


def compile_alone(header):
    result = subprocess.run(
        ["g++", "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Werror",
         f"-I{SRC}", "-x", "c++", str(header)],
        capture_output=True, text=True)
    # "#pragma once in main file" cannot occur: the headers use guards.
    return header, result.returncode, result.stderr


def main():
    prefixes = foreign_prefixes()
    headers = [h for h in sorted(SRC.rglob("*.h"))
               if not h.name.endswith("_internal.h")]
    faults = []
    for header in headers:
        if header.parent.name in ("testing", "cpu"):
            continue
        for included in re.findall(r'#\s*include\s*[<"]([^>"]+)', header.read_text()):
            if any(included.startswith(p) for p in prefixes):
                faults.append(f"{header.relative_to(ROOT)} leaks {included}")
    alone = [h for h in headers if h.parent.name != "cpu"]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for header, code, text in pool.map(compile_alone, alone):
            if code != 0:
                faults.append(f"{header.relative_to(ROOT)} does not compile alone:\n{text[:800]}")
    for fault in faults:
        print("headers:", fault, file=sys.stderr)
    if not faults:
        print(f"headers: {len(alone)} public headers compile alone")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
