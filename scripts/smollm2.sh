#!/usr/bin/env bash
# SmolLM2-135M as a bf16 Hugging Face checkpoint in build/smollm2, made once.
set -eu
cd "$(dirname "$0")/.."
[ -e build/smollm2/config.json ] && exit 0
echo "preparing SmolLM2-135M as a bf16 Hugging Face checkpoint in build/smollm2"
mkdir -p build
.deps/venv/bin/python scripts/make_smollm2.py build/smollm2 2>build/make_smollm2.log && exit 0
echo "no real model: $(tail -n 1 build/make_smollm2.log 2>/dev/null || echo 'Python packages are missing')"
exit 1
