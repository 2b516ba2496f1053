#!/usr/bin/env bash
# Configures and builds a preset: scripts/build.sh release|dev|asan|tsan|fuzz
# [targets]. Quiet unless it fails.
set -eu
cd "$(dirname "$0")/.."
preset=$1
shift
log=build/$preset.log
mkdir -p build
ucx122=$(ls -d .deps/venv/lib/python3*/site-packages/libucx/lib 2>/dev/null | head -n 1 || true)
if ! cmake --preset "$preset" ${ucx122:+-DWEFT_UCX122_LIB_DIR="$PWD/$ucx122"} >"$log" 2>&1; then
  tail -n 40 "$log" >&2
  exit 1
fi
[ -t 2 ] && printf 'building %s (log: %s)\n' "$preset" "$log" >&2
if ! cmake --build --preset "$preset" ${1:+--target "$@"} >>"$log" 2>&1; then
  grep -E 'error|Error|FAILED|undefined' "$log" | head -n 40 >&2
  printf 'build of %s failed: see %s\n' "$preset" "$log" >&2
  exit 1
fi
