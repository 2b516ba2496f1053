#!/usr/bin/env bash
# A live trainer (FSDP2) and a live engine (vLLM) on a real model.
set -eu
cd "$(dirname "$0")/.."
scripts/setup.sh --ml
scripts/smollm2.sh
scripts/wheel.sh .deps/venv-ml
exec .deps/venv-ml/bin/python scripts/demo_rl.py "$@"
