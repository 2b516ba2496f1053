#!/usr/bin/env bash
# The main job on a real model: prepares SmolLM2-135M once, then `weft demo`.
set -u
cd "$(dirname "$0")/.."
checkpoint=build/smollm2
if ! scripts/smollm2.sh; then
  echo "going on with a synthetic Qwen3-shaped checkpoint (weft synth)"
  checkpoint=""
fi
exec build/release/bin/weft demo ${checkpoint:+--checkpoint "$checkpoint"} "$@"
