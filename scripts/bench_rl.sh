#!/usr/bin/env bash
# Refits of a live vLLM against gathering, saving and reloading, and against a
# broadcast: SmolLM2-135M and a Qwen3 of 2 GB. JSON lines go to build/ as well.
set -eu
cd "$(dirname "$0")/.."
scripts/setup.sh --ml
scripts/smollm2.sh
scripts/wheel.sh .deps/venv-ml
: >build/bench-rl.jsonl
for model in smollm2 qwen3; do
  .deps/venv-ml/bin/python bench/live/live_refit.py --model $model --json "$@" \
    >>build/bench-rl.jsonl
done
exec python3 scripts/bench_table.py build/bench-rl.jsonl
