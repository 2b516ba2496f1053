#!/usr/bin/env bash
# Builds the Python wheel into build/dist, with the compiler cache of the other
# presets, and installs it into the environments given: scripts/wheel.sh [VENV...]
set -eu
cd "$(dirname "$0")/.."
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1 CCACHE_SLOPPINESS=time_macros
export CMAKE_CXX_COMPILER_LAUNCHER=ccache CMAKE_C_COMPILER_LAUNCHER=ccache
mkdir -p build
rm -rf build/dist
if ! .deps/venv/bin/python -m pip --disable-pip-version-check wheel -q --no-build-isolation \
  --no-deps -w build/dist . >build/wheel.log 2>&1; then
  tail -n 30 build/wheel.log >&2
  exit 1
fi
for venv in "$@"; do
  "$venv/bin/python" -m pip --disable-pip-version-check install -q --no-deps \
    --force-reinstall build/dist/weft-*.whl
done
