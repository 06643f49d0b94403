# Times the stages of ./run test and counts what they ran. Sourced by ./run.

LOGS=build/logs
PASSED=0
STAGE=""
REPORT=()

log_file() {
  mkdir -p "$LOGS"
  echo "$LOGS/$1.log"
}

fail_with_log() {
  cat "$LOGS/$1.log" >&2
  fail "$1 failed; its output stands above and in $LOGS/$1.log"
}

minutes() { awk -v seconds="$1" 'BEGIN { printf "%.1f min", seconds / 60 }'; }

# stage NAME COMMAND...: the first failure ends the run and names its stage.
stage() {
  local start=$SECONDS
  STAGE=$1
  shift
  trap 'failed $?' EXIT
  printf '\n== %s\n' "$STAGE"
  "$@"
  trap - EXIT
  REPORT+=("$(printf '%-40s %s' "$STAGE" "$(minutes $((SECONDS - start)))")")
  printf '== %s\n' "${REPORT[-1]}"
}

failed() {
  printf '\nrun: "%s" failed after %s\n' "$STAGE" "$(minutes $SECONDS)" >&2
  exit "$1"
}

# Says again, last, which checks failed and why: CTest's list of skipped tests stands behind what it printed of them.
failed_checks() {  # CODE LOG
  printf '\nWhat failed, of %s:\n' "$2"
  grep -E -A 6 '^(FAIL|ERROR): |: Failure$|Error: |\*\*\*(Failed|Timeout|Exception)|WARNING: ThreadSanitizer' "$2" |
    tail -n 80
  return "$1"
}

# Adds what CTest ran, "100% tests passed, 0 tests failed out of N", less what it skipped.
count_ctest() {
  local total skipped
  total=$(sed -n 's/.* tests failed out of \([0-9]*\)$/\1/p' "$1")
  skipped=$(grep -c '\*\*\*Skipped' "$1" || true)
  ((total > 0)) || fail "CTest found no tests"
  PASSED=$((PASSED + total - skipped))
}

# Adds what unittest ran, "Ran N tests in ...", less what it skipped.
count_unittest() {
  local total skipped
  total=$(sed -n 's/^Ran \([0-9]*\) tests\{0,1\} in .*/\1/p' "$1")
  skipped=$(sed -n 's/^OK (skipped=\([0-9]*\))$/\1/p' "$1")
  PASSED=$((PASSED + ${total:-0} - ${skipped:-0}))
}

summary() {
  printf '\n'
  printf '%s\n' "${REPORT[@]}"
  printf '%-40s %s\n' "in all" "$(minutes $SECONDS)"
  printf '%d passed, 0 failed\n' "$PASSED"  # the first failure would have ended the run
}
