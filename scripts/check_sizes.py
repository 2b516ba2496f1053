#!/usr/bin/env python3
"""No source is longer than 600 lines; none holds a to-do without an issue."""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIMIT = 600


def main():
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.cc", "*.h", "*.py", "*.proto", "*.cu"],
        cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    faults = []
    for name in names:
        path = ROOT / name
        if not path.exists() or name.startswith("scripts/check_sizes"):
            continue
        lines = path.read_text().splitlines()
        if len(lines) > LIMIT:
            faults.append(f"{name} has {len(lines)} lines, the limit is {LIMIT}")
        for number, line in enumerate(lines, 1):
            if re.search(r"\b(TODO|FIXME|XXX)\b(?!\(#\d+\))", line):
                faults.append(f"{name}:{number} promises something without an issue number")
    for fault in faults:
        print("sizes:", fault, file=sys.stderr)
    if not faults:
        print(f"sizes: {len(names)} files are at most {LIMIT} lines")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
