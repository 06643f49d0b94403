#!/usr/bin/env bash
# Runs fuzz targets of build/fuzz, one after the other, each for FUZZ_SECONDS (60) from the seeds and from what it found
# before: tests/fuzz/run.sh [TARGET...]. An input that shows a bug is kept in build/fuzz/found, and the target's output
# is shown.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

export ASAN_OPTIONS=quarantine_size_mb=16  # of the memory that a target may take

for target in "$@"; do
  log=build/fuzz/$target.log
  corpus=build/fuzz/corpus/$target
  mkdir -p "$corpus" build/fuzz/found
  options=(-rss_limit_mb=512 -timeout=2 -max_len=4096 "-max_total_time=${FUZZ_SECONDS:-60}" -print_final_stats=1
    "-artifact_prefix=build/fuzz/found/$target-")
  [[ ! -f tests/fuzz/$target.dict ]] || options+=("-dict=tests/fuzz/$target.dict")
  if ! "build/fuzz/fuzz_$target" "${options[@]}" "$corpus" "build/fuzz/seeds/$target" >"$log" 2>&1; then
    tail -n 60 "$log"
    echo "fuzz_$target found a bug; see build/fuzz/found"
    exit 1
  fi
  printf '%s: %s inputs, %s MB at most\n' "$target" \
    "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" "$(sed -n 's/^stat::peak_rss_mb: *//p' "$log")"
done
