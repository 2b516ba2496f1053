#!/usr/bin/env bash
# All tests of the release build: C++ by ctest, the program against NumPy
# oracles, the Python package as a wheel; then, unless --core, the parts that
# need torch, Megatron-Core and vLLM.
set -u
cd "$(dirname "$0")/.."
failed=0
export WEFT_BIN="$PWD/build/release/bin/weft"
# Tests start servers of their own.
scripts/setup.sh --redis || failed=1
ctest --preset release -j "$(nproc)" --output-on-failure || failed=1

if [ ! -x .deps/venv/bin/pytest ]; then
  echo "test: pytest is not installed (see the lines of scripts/setup.sh): the Python checks did not run" >&2
  exit 1
fi
ml=""
if [ "${1:-}" != "--core" ]; then
  scripts/setup.sh --ml && ml=.deps/venv-ml || failed=1
fi
scripts/smollm2.sh || failed=1
# shellcheck disable=SC2086
scripts/wheel.sh .deps/venv $ml || exit 1
.deps/venv/bin/python -m pytest -q tests/python --ignore tests/python/trainers \
  --ignore tests/python/engines --ignore tests/python/examples \
  --ignore tests/python/test_modelexpress.py || failed=1
if [ -n "$ml" ]; then
  # Each folder by itself: they have helpers of the same names.
  for folder in trainers engines examples; do
    $ml/bin/python -m pytest -q --durations 3 "tests/python/$folder" || failed=1
  done
  PYTHONPATH=.deps/modelexpress $ml/bin/python -m pytest -q \
    tests/python/test_modelexpress.py || failed=1
fi
exit $failed
