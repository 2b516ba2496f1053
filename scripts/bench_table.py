#!/usr/bin/env python3
"""Prints benchmark lines (weft bench --json) as a table."""
import json
import sys


def main():
    rows = [("CASE", "VALUE", "UNIT", "BOUND", "RATIO", "RUNS", "SPREAD")]
    for line in open(sys.argv[1]):
        r = json.loads(line)
        ratio = "" if r["ratio"] is None else f"{r['ratio']:.2f}"
        bound = "" if r["bound"] is None else f"{r['bound']:.4g}"
        rows.append((r["case"], f"{r['value']:.4g}", r["unit"], bound, ratio,
                     str(r["runs"]), f"{r['spread']:.2f}"))
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip())


if __name__ == "__main__":
    main()
