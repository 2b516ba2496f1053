#!/usr/bin/env bash
# The main job on a real model: prepares SmolLM2-135M once, then `weft demo`.
set -u
cd "$(dirname "$0")/.."
checkpoint=build/smollm2
if [ ! -e "$checkpoint/config.json" ]; then
  echo "preparing SmolLM2-135M as a bf16 Hugging Face checkpoint in $checkpoint"
  if ! .deps/venv/bin/python scripts/make_smollm2.py "$checkpoint" 2>build/make_smollm2.log; then
    echo "no real model: $(tail -n 1 build/make_smollm2.log 2>/dev/null || echo 'Python packages are missing')"
    echo "going on with a synthetic Qwen3-shaped checkpoint (weft synth)"
    checkpoint=""
  fi
fi
exec build/release/bin/weft demo ${checkpoint:+--checkpoint "$checkpoint"} "$@"
