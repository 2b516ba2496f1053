#!/usr/bin/env bash
# Runs every libFuzzer target for a while: scripts/fuzz.sh [SECONDS a target|build].
# New finds go to build/fuzz-corpus; the small corpus in tests/ is only read.
set -u
cd "$(dirname "$0")/.."
seconds=${1:-60}
command -v clang++ >/dev/null || { echo "fuzz: clang++ is missing; run scripts/setup.sh --all" >&2; exit 1; }
# The only list of them; scripts/fuzz.sh build builds and runs nothing.
targets=(fuzz_safetensors fuzz_catalog fuzz_catalog_state fuzz_tokens fuzz_placement fuzz_plan
  fuzz_receiver_state fuzz_modelexpress fuzz_recipe fuzz_transport fuzz_topology)
scripts/build.sh fuzz "${targets[@]}" || exit 1
[ "$seconds" = build ] && exit 0
run() {
  local name=$1 target=build/fuzz/bin/$1 failed=0
  mkdir -p "build/fuzz-corpus/$name"
  "$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="build/fuzz-corpus/$name-" "build/fuzz-corpus/$name" \
    "tests/fuzz_corpus/${name#fuzz_}" >"build/$name.log" 2>&1 || {
    tail -n 30 "build/$name.log"
    failed=1
  }
  grep -E 'stat::number_of_executed_units' "build/$name.log" | sed "s/^/fuzz: $name /"
  return $failed
}
# As many at a time as there are cores.
failed=0
running=0
for name in "${targets[@]}"; do
  if [ "$running" -ge "$(nproc)" ]; then
    wait -n || failed=1
    running=$((running - 1))
  fi
  run "$name" &
  running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
  wait -n || failed=1
  running=$((running - 1))
done
exit $failed
