#!/usr/bin/env bash
# All tests of the release build: C++ by ctest, then the Python checks of the
# program against NumPy oracles.
set -u
cd "$(dirname "$0")/.."
failed=0
ctest --preset release -j "$(nproc)" --output-on-failure || failed=1
if [ -x .deps/venv/bin/pytest ]; then
  WEFT_BIN="$PWD/build/release/bin/weft" .deps/venv/bin/python -m pytest -q tests/python || failed=1
else
  echo "test: pytest is not installed (see the lines of scripts/setup.sh): the Python checks did not run" >&2
  failed=1
fi
exit $failed
