#!/usr/bin/env bash
# Every benchmark with the bound of the same run beside it; JSON lines go to
# build/bench.jsonl as well.
set -u
cd "$(dirname "$0")/.."
: >build/bench.jsonl
for what in digest convert plan transport catalog refit; do
  build/release/bin/weft bench $what --json >>build/bench.jsonl || exit 1
done
exec python3 scripts/bench_table.py build/bench.jsonl
