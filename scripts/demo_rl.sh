#!/usr/bin/env bash
# A live trainer (FSDP2) and a live engine (vLLM) on a real model.
set -eu
cd "$(dirname "$0")/.."
scripts/setup.sh --ml
if [ ! -e build/smollm2/config.json ]; then
  echo "preparing SmolLM2-135M as a bf16 Hugging Face checkpoint in build/smollm2"
  .deps/venv/bin/python scripts/make_smollm2.py build/smollm2
fi
scripts/wheel.sh .deps/venv-ml
exec .deps/venv-ml/bin/python scripts/demo_rl.py "$@"
