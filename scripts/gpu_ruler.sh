#!/usr/bin/env bash
# RULER on one GPU without OpenCompass: a process a method and length, all at once.
#
#   scripts/gpu_ruler.sh MODEL_FOLDER WORK_DIR
#
# LENGTHS, METHODS (lists separated by blanks) and REATTENTION_SAMPLES, _ONLY_TASKS choose a part.
# Data: REATTENTION_DATA/ruler/{squad,hotpotqa}.json, and the essays in REATTENTION_CACHE/data
# (`reattention-eval prepare demo`, `prepare ruler`). What is in WORK_DIR already is not run again.
set -uo pipefail
model=$1 work=$2
read -ra lengths <<<"${LENGTHS:-4096 8192 16384}"
read -ra methods <<<"${METHODS:-full streaming_llm reattention}"
export REATTENTION_SAMPLES=${REATTENTION_SAMPLES:-5} OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$work/logs"

ruler() {
  python3 -m reattention_eval.harness.standalone --model "$model" --work-dir "$work" \
    --methods "$here/configs/methods/demo.py" --plans "$here/configs/datasets/ruler.py"
}

for length in "${lengths[@]}"; do
  for method in "${methods[@]}"; do
    REATTENTION_ONLY_METHODS=$method REATTENTION_ONLY_LENGTHS=$length \
      ruler >"$work/logs/$method-$length.log" 2>&1 &
  done
done
wait

# everything has been run: this only makes the table
REATTENTION_ONLY_METHODS=$(IFS=,; echo "${methods[*]}") \
  REATTENTION_ONLY_LENGTHS=$(IFS=,; echo "${lengths[*]}") ruler
