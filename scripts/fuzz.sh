#!/usr/bin/env bash
# Runs every libFuzzer target for a while: scripts/fuzz.sh [SECONDS a target|build].
# New finds go to build/fuzz-corpus; the small corpus in tests/ is only read.
set -u
cd "$(dirname "$0")/.."
seconds=${1:-60}
command -v clang++ >/dev/null || { echo "fuzz: clang++ is missing; run scripts/setup.sh --all" >&2; exit 1; }
# The only list of them; scripts/fuzz.sh build builds and runs nothing.
targets=(fuzz_safetensors fuzz_catalog fuzz_catalog_state fuzz_tokens fuzz_placement fuzz_plan
  fuzz_receiver_state fuzz_modelexpress)
scripts/build.sh fuzz "${targets[@]}" || exit 1
[ "$seconds" = build ] && exit 0
failed=0
for name in "${targets[@]}"; do
  target=build/fuzz/bin/$name
  mkdir -p "build/fuzz-corpus/$name"
  "$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="build/fuzz-corpus/$name-" "build/fuzz-corpus/$name" \
    "tests/fuzz_corpus/${name#fuzz_}" >"build/$name.log" 2>&1 || {
    tail -n 30 "build/$name.log"
    failed=1
  }
  grep -E 'stat::number_of_executed_units' "build/$name.log" | sed "s/^/fuzz: $name /"
done
exit $failed
