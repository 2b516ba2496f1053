#!/usr/bin/env python3
"""Every test that docs/corruptions.md names exists: `file: case`, `case` of the
file named before it in its row, or a file alone."""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def files_named(name):
    if "/" in name:
        return [ROOT / name] if (ROOT / name).exists() else []
    return [path for folder in ("src", "apps", "tests")
            for path in (ROOT / folder).rglob(name)]


def main():
    faults = []
    count = 0
    for line in (ROOT / "docs/corruptions.md").read_text().splitlines():
        if not re.match(r"\| [SM]\d", line):
            continue
        row = line.split("|")[1].strip()
        files = []
        for quoted in re.findall(r"`([^`]+)`", line.split("|")[3]):
            if quoted.startswith("weft "):
                continue
            name, _, case = quoted.partition(": ")
            if "." in name:
                files = files_named(name)
                if not files:
                    faults.append(f"{row}: no file {name}")
                    continue
                if not case:
                    continue
            else:
                case = name
            count += 1
            found = any(re.search(rf"(\bdef test_{case}\(|,\s*{case}\))",
                                  path.read_text()) for path in files)
            if not found:
                faults.append(f"{row}: no case {case} in "
                              f"{', '.join(path.name for path in files)}")
    for fault in faults:
        print(f"docs/corruptions.md: {fault}")
    print(f"corruptions: {count} tests named, {len(faults)} missing")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
