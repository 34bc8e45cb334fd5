#!/usr/bin/env bash
# What memory costs and makes possible on one GPU (docs/efficiency.md), step by step.
#
#   scripts/gpu_memory.sh [STEP...]        all steps if none is named; a failed one leaves the others
#
# tests: of cache and bench on a GPU. parts: where a prompt's time goes (E8). text: the tiers
# on real text, a real model of 1.5B (E7). long: 10,000 tokens behind 131,072. int8: a 70B's shape in
# 8 bit (torchao). e5: a million tokens of 8B as on 80 GB. e6: E6 tokens (4M) of 1.5B as on 80 GB.
# analysis: all lengths, methods and tiers, as far as MINUTES (10) for each shape go. report: tables,
# bars and rates of all records, into docs/efficiency.md.
# MODEL and TEXT: of the step text (`reattention-eval prepare model`, `prepare needle`). COMMIT: of a
# copy without Git history. Records are results/gpu/*.json; each run is kept as soon as it exists. By
# plan's rates on an H200 e5 takes 5 minutes, e6 20 (E6=2M: 6). Where the machine shows less memory
# than it grows to: REATTENTION_HOST_MEMORY (docs/variables.md). report changes a file of the package:
# after the last measurement, on a checkout with Git history.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
export PYTHONPATH="$PWD:$PWD/kernels${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-python3}
MODEL=${MODEL:-qwen2.5-coder-1.5b-q4}
TEXT=${TEXT:-${REATTENTION_CACHE:-$HOME/.cache/reattention_eval}/data/shakespeare.md}
commit=(${COMMIT:+--commit "$COMMIT"})
as_80_gb=(--gpu-memory 79.1 --repeats 1 --decode 32)

bench() { "$python" -m reattention_eval bench "$@"; }
e2e() { bench e2e "$@" "${commit[@]}"; }

run_tests() {
  "$python" -m pytest -q -m gpu -p no:cacheprovider tests/cache tests/efficiency
}
run_parts() { bench parts LLaMA3.1-8B "${commit[@]}"; }
run_text() {
  e2e "$MODEL" --methods reattention --cache device,values_on_host,host --lengths 64K,128K,256K \
    --text "$TEXT"
}
run_long() {
  e2e LLaMA3.1-8B --only reattention@128K --decode 10000 --repeats 1 \
    --out results/gpu/long-answer.json
}
run_int8() {
  e2e LLaMA3.1-70B --weights int8 --methods "reattention full" --lengths 32K,128K --repeats 1
}
# a virtual machine may get its memory as it is used: before it is pinned, GiB
memory() { "$python" scripts/fill_memory.py "$1"; }
run_e5() {
  memory 84
  e2e LLaMA3.1-8B --only reattention@1M@auto "${as_80_gb[@]}"
}
run_e6() {
  memory 64
  e2e Qwen2-1.5B --only "reattention@${E6:-4M}@values_on_host" "${as_80_gb[@]}"
}
run_analysis() {
  memory 84
  bench analysis LLaMA3.1-8B --minutes "${MINUTES:-10}" "${commit[@]}"
  bench analysis Qwen2-1.5B --until 4M --minutes "${MINUTES:-10}" "${commit[@]}"
}
run_report() {
  local records=(results/gpu/e2e-*.json)
  [[ -e results/gpu/long-answer.json ]] && records+=(results/gpu/long-answer.json)
  bench rates results/gpu/e2e-*.json --bars results/gpu/bars.json
  bench report "${records[@]}" --into docs/efficiency.md --bars results/gpu/bars.json &&
    "$python" -m reattention_kernels.bench --check
}

steps=(tests parts text long int8 e5 e6 analysis report)
failed=()
for step in "${@:-${steps[@]}}"; do
  declare -F "run_$step" >/dev/null || { echo "unknown step '$step'; see the head of $0" >&2; exit 2; }
done
for step in "${@:-${steps[@]}}"; do
  echo "== $step, $(date +%T)"
  "run_$step" || failed+=("$step")
done
if ((${#failed[@]})); then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
