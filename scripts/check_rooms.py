#!/usr/bin/env python3
"""Fails when a source includes what rooms.toml does not allow.

Every #include "weft/<room>/..." in src/weft/<room>[/<leaf>]/ must go along a
declared arrow, and a foreign prefix that some room or leaf owns must not be
included anywhere else under src/weft. apps/, tests/ and bench/ may use every
public room; nothing may include them.
"""
import pathlib
import re
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEST_FRAMEWORKS = ("gtest/", "gmock/", "rapidcheck")
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)


def load_rooms():
    with open(ROOT / "rooms.toml", "rb") as file:
        return tomllib.load(file)


def check_levels(rooms):
    faults = []
    for name, room in rooms.items():
        for other in room["may_include"]:
            if other not in rooms:
                faults.append(f"rooms.toml: [{name}] names the unknown room {other}")
            elif rooms[other]["level"] > room["level"]:
                faults.append(
                    f"rooms.toml: [{name}] level {room['level']} may not include "
                    f"{other} of level {rooms[other]['level']}")
    return faults


def owners_of_foreign(rooms):
    owners = {}
    for name, room in rooms.items():
        for prefix in room.get("foreign", []):
            owners.setdefault(prefix, set()).add((name, None))
        for leaf, entry in room.get("leaves", {}).items():
            for prefix in entry.get("foreign", []):
                owners.setdefault(prefix, set()).add((name, leaf))
    return owners


def check_file(path, room_name, leaf, rooms, owners):
    # A test, and what only tests use, may reach for any room.
    is_test = "testing" in path.parts or path.name.endswith(("_test.cc", "_fuzz.cc"))
    faults = []
    where = path.relative_to(ROOT)
    for included in INCLUDE.findall(path.read_text()):
        if included.startswith("weft/"):
            target = included.split("/")[1]
            if target not in rooms:
                faults.append(f"{where}: includes {included}, no room of rooms.toml")
            elif target != room_name and not is_test and (
                    target not in rooms[room_name]["may_include"]):
                faults.append(
                    f"{where}: the arrow {room_name} -> {target} is not declared "
                    "in rooms.toml")
            continue
        if included.startswith(TEST_FRAMEWORKS):
            if not is_test:
                faults.append(f"{where}: {included} belongs to tests")
            continue
        for prefix, allowed in owners.items():
            if not included.startswith(prefix):
                continue
            if (room_name, None) in allowed or (room_name, leaf) in allowed:
                continue
            faults.append(f"{where}: {included} belongs to "
                          + " or ".join(f"{r}/{l}" if l else r
                                        for r, l in sorted(allowed, key=str)))
    return faults


def main():
    rooms = load_rooms()
    owners = owners_of_foreign(rooms)
    faults = check_levels(rooms)
    files = 0
    for path in sorted((ROOT / "src" / "weft").rglob("*")):
        if path.suffix not in (".h", ".cc", ".cu", ".cuh"):
            continue
        parts = path.relative_to(ROOT / "src" / "weft").parts
        if parts[0] not in rooms:
            faults.append(f"{path.relative_to(ROOT)}: {parts[0]} is no room of rooms.toml")
            continue
        leaf = parts[1] if len(parts) > 2 else None
        if leaf and leaf not in rooms[parts[0]].get("leaves", {}):
            faults.append(f"{path.relative_to(ROOT)}: {leaf} is no leaf of [{parts[0]}]")
            continue
        files += 1
        faults += check_file(path, parts[0], leaf, rooms, owners)
    for fault in faults:
        print("rooms:", fault, file=sys.stderr)
    if not faults:
        print(f"rooms: {files} files in {len(rooms)} rooms follow rooms.toml")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
