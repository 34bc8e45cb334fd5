#!/usr/bin/env bash
# All that needs a CUDA device: tests, memory and race checks, the bench with its records.
#   scripts/gpu_check.sh [--commit HASH]      the commit, where this is a copy without Git history
# GPU_CHECK_JOBS processes share the tests (kernels are compiled on one core each); a test needs up
# to 11 GB.
# The summary is results/gpu/<date>-<device>.json.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD:$PWD/kernels${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-python3}
jobs=${GPU_CHECK_JOBS:-6}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
gpu_tests=(-m gpu -q -p no:cacheprovider)
"$python" -m pytest tests/{attention,cache,efficiency,kernels,parallel} "${gpu_tests[@]}" --collect-only |
  grep :: >"$work/all"
split -n "r/$jobs" "$work/all" "$work/part."
GPU_TEST_SHARE=$("$python" -c "print(0.9 / $jobs)")
export GPU_TEST_SHARE
pids=()
for part in "$work"/part.??; do
  xargs -a "$part" -d '\n' "$python" -m pytest "${gpu_tests[@]}" --junitxml "$part.xml" \
    >"$part.log" 2>&1 &
  pids+=($!)
done
failed=0
for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
cat "$work"/part.*.log
[[ $failed == 0 ]]

sanitizers=()
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    compute-sanitizer --tool "$tool" --error-exitcode 9 "$python" scripts/gpu_small.py
    sanitizers+=("$tool")
  done
else
  echo "compute-sanitizer is not on the PATH: memory and races were not checked" >&2
fi
"$python" -m reattention_kernels.bench --others "$@"
"$python" scripts/gpu_record.py --tests "$work"/part.*.xml --sanitizers "${sanitizers[@]}" "$@"
