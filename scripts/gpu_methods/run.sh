#!/usr/bin/env bash
# The table of all methods and the ablations of ReAttention on rented GPUs, in pieces of a fixed
# time, without OpenCompass.
#
#   MINUTES=25 scripts/gpu_methods/run.sh MODEL WORK_DIR
#   python scripts/gpu_methods/tables.py MODEL WORK_DIR results/methods/NAME results/ablation
#
# On each GPU processes share a run: LANES="main:8 eviction:2 far:1" says how many take the plans of
# main.py, eviction.py and far.py, one dataset after another. GPUS: their numbers ("0 1"), all if
# unset. A later call goes on where this one stopped; WORK_DIR may begin as what a
# results/*/records.tar.xz holds. Into a WORK_DIR of their own: "real:1", reattention_plus on what
# results/qwen2.5-coder-1.5b asks; "times:1", then "times_eviction:1", on a GPU that is idle.
# Methods through kvpress want transformers 4.57: EVICTION_SITE is a folder for PYTHONPATH that has
# it and kvpress. Logs are in WORK_DIR/logs; prompts are kept in PROMPTS, WORK_DIR/prompts if unset.
# h2o takes 37 GB at 16,384 tokens, dynamic_ntk 53 GB at 524,288 and 103 GB at 1,048,576: where
# others leave them no memory a prompt is recorded as failed and tried again as memory comes free;
# the same command with LANES="eviction:1" or "far:1" goes on with it.
# Status 1 where a process left something undone: time was over, or a method failed (its log says).
set -uo pipefail
model=${1:?give the model: a folder or an embedded name} work=${2:?give the folder of the run}
root=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$work/logs" && work=$(cd "$work" && pwd) || exit 2
prompts=${PROMPTS:-$work/prompts}
gpus=${GPUS:-$(nvidia-smi --query-gpu=index --format=csv,noheader)}
export REATTENTION_MINUTES=${MINUTES:-} PYTHONUNBUFFERED=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
cd "$root" || exit 2
export PYTHONPATH="$root:$root/kernels${PYTHONPATH:+:$PYTHONPATH}"

pids=()
for gpu in $gpus; do
  for lane in ${LANES:-main:8 eviction:2 far:1}; do
    name=${lane%:*} path=$PYTHONPATH
    [[ $name == *eviction && ${EVICTION_SITE:-} ]] && path=$EVICTION_SITE:$path
    for ((i = 0; i < ${lane#*:}; i++)); do
      CUDA_VISIBLE_DEVICES=$gpu PYTHONPATH=$path "${PYTHON:-python3}" \
        -m reattention_eval.harness.standalone --share --model "$model" --work-dir "$work" \
        --methods configs/methods/equal_budgets.py --plans "scripts/gpu_methods/$name.py" \
        --prompts "$prompts" >>"$work/logs/$name-$gpu-$i.log" 2>&1 &
      pids+=($!)
    done
  done
done
failed=0
for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
exit $failed
