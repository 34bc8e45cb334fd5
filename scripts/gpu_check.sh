#!/usr/bin/env bash
# All that needs a CUDA device: tests, memory and race checks, the bench with its records.
#   scripts/gpu_check.sh [--commit HASH]      the commit, where this is a copy without Git history
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD:$PWD/kernels${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-python3}

"$python" -m pytest tests/kernels tests/attention -m gpu -q -p no:cacheprovider
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    compute-sanitizer --tool "$tool" --error-exitcode 9 "$python" scripts/gpu_small.py
  done
else
  echo "compute-sanitizer is not on the PATH: memory and races were not checked" >&2
fi
"$python" -m reattention_kernels.bench "$@"
