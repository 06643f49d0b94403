# The parts of ./run test-gpu, each over within minutes. Sourced by ./run.

GPU_PARTS=(ops laws models engine sanitizer)
GPU_FAILED=()
GPU_PROGRAMS=${SHADOWKV_GPU_TESTS:-build/cuda}  # folder of the test programs

# Every op against its CPU twin or a definition, over shapes and types; the device itself.
gpu_ops() {
  gpu_tests ops-device base_tests '*Cuda*' 1
  gpu_tests ops kernels_tests '*/cuda*' 1
}

# What must not change a result, and sparse attention that may choose everything.
gpu_laws() { gpu_tests laws attention_tests '*Gpu*' 1; }

# Golden models against the CPU; batches, micro-batches, tokens drawn on the device.
gpu_models() { gpu_tests models model_tests '*Gpu*' 1; }

# Tokens drawn where the logits lie, first ones included; histories of a service.
gpu_engine() { gpu_tests engine engine_tests '*/cuda*' 2; }

# memcheck sees every kernel that the ops have. racecheck follows each access to shared memory, of our kernels alone, and
# leaves out tests that take it minutes and only choose again, from more entries, and those with matrix products, whose
# blocks write into each other's shared memory: there it ends with an internal error of its own.
gpu_sanitizer() {
  command -v compute-sanitizer >/dev/null || fail "compute-sanitizer was not found; it comes with the CUDA toolkit"
  local sanitizer=(compute-sanitizer --error-exitcode 9)
  gpu_tests memcheck kernels_tests '*/cuda*' 4 "${sanitizer[@]}" --tool memcheck
  gpu_tests racecheck kernels_tests '*/cuda*-*AMillion*:*HoweverTheScoresAreSpread*:*.Matmul*:*OpClocks*' 8 "${sanitizer[@]}" \
    --tool racecheck --kernel-name kernel_substring=shadowkv
}

# gpu_tests NAME PROGRAM FILTER PROCESSES [WRAPPER...]: a program's tests that a filter names, dealt to so many
# processes at a time; prints how many passed and in what time. Where one fails the others still run: a GPU is there for
# a while.
gpu_tests() {
  local name=$1 program=$GPU_PROGRAMS/$2 filter=$3 processes=$4 start=$SECONDS shard pids=() logs=()
  shift 4
  local -x GTEST_TOTAL_SHARDS=$processes SHADOWKV_TEST_FILES=$PWD/tests/testdata
  [[ -x $program ]] || fail "$program is not there; build it, or name the folder that has it in SHADOWKV_GPU_TESTS"
  for ((shard = 0; shard < processes; ++shard)); do
    logs+=("$(log_file "gpu-$name-$shard")")
    GTEST_SHARD_INDEX=$shard "$@" "$program" --gtest_filter="$filter" >"${logs[shard]}" 2>&1 &
    pids+=($!)
  done
  local passed skipped failed=0
  for ((shard = 0; shard < processes; ++shard)); do
    wait "${pids[shard]}" || { cat "${logs[shard]}" >&2 && ((++failed)); }
  done
  if ((failed)); then
    GPU_FAILED+=("$name")
    printf '%s: failed in %d s; its output stands above and in %s\n' "$name" $((SECONDS - start)) "${logs[*]}"
    return
  fi
  passed=$(count_gtests PASSED "${logs[@]}")
  skipped=$(count_gtests SKIPPED "${logs[@]}")
  ((passed > 0)) || fail "no test of $program has a name like $filter"
  PASSED=$((PASSED + passed))
  printf '%s: %d passed, 0 failed, %d skipped in %d s\n' "$name" "$passed" "$skipped" $((SECONDS - start))
}

# Sums what GoogleTest's last lines say: "[  PASSED  ] N tests.", "[  SKIPPED ] N tests, listed below:".
count_gtests() {
  sed -n "s/^\[ *$1 *\] \([0-9]*\) tests\{0,1\}[.,].*/\1/p" "${@:2}" | awk '{ n += $1 } END { print n + 0 }'
}

# run_gpu_tests [PART...]
run_gpu_tests() {
  local part
  for part in "$@"; do
    [[ " ${GPU_PARTS[*]} " == *" $part "* ]] || fail "unknown part '$part': choose ${GPU_PARTS[*]}"
  done
  (($#)) || set -- "${GPU_PARTS[@]}"
  has_gpu || fail "no NVIDIA GPU was found: nvidia-smi does not run here"
  if [[ -z ${SHADOWKV_GPU_TESTS:-} ]]; then
    stage "packages" install_packages "${BUILD_PACKAGES[@]}"
    stage "cuda build" build cuda base_tests kernels_tests attention_tests model_tests engine_tests
  fi
  for part in "$@"; do stage "$part" "gpu_$part"; done
  ((${#GPU_FAILED[@]} == 0)) || fail "failed: ${GPU_FAILED[*]}"
  summary
}
