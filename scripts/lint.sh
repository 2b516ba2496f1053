#!/usr/bin/env bash
# What CI checks besides tests: format, rooms, headers, tidy. Needs
# scripts/setup.sh --all.
set -u
cd "$(dirname "$0")/.."
failed=0
mapfile -t sources < <(git ls-files '*.cc' '*.h')
if ! clang-format --dry-run -Werror "${sources[@]}" 2>build/format.log; then
  head -n 20 build/format.log >&2
  echo "format: run clang-format -i on the files above" >&2
  failed=1
else
  echo "format: ${#sources[@]} files are as clang-format wants them"
fi
python3 scripts/check_rooms.py || failed=1
python3 scripts/check_headers.py || failed=1
python3 scripts/check_sizes.py || failed=1
python3 scripts/check_corruptions.py || failed=1
[ "${1:-}" = "--quick" ] || python3 scripts/run_tidy.py || failed=1
exit $failed
