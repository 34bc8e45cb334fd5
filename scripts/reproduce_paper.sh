#!/usr/bin/env bash
# Every table of the paper, a run of opencompass for each benchmark.
#
#   scripts/reproduce_paper.sh [--dry-run] [--out DIR] [BENCHMARK...] [-- WORDS FOR OPENCOMPASS...]
#
# BENCHMARK: longbench leval infinitebench needle ruler (all of them if none is named). --dry-run
# lists the jobs, model with method and dataset, and needs neither data nor models. A second call
# goes on where the first one stopped. The REATTENTION_* variables of the configurations choose a
# part; under SLURM: REATTENTION_RUNNER=slurm scripts/reproduce_paper.sh -- -p PARTITION
#
# Before the first run: reattention-eval prepare all
set -uo pipefail
cd "$(dirname "$0")/.."
[[ -d .venv/bin ]] && PATH="$PWD/.venv/bin:$PATH"

out=outputs/paper
dry=
names=()
while (($#)); do
  case $1 in
    --dry-run) dry=1 ;;
    --out) out=${2:?--out needs a folder} && shift ;;
    --) shift && break ;;
    longbench | leval | infinitebench | needle | ruler) names+=("$1") ;;
    *)
      echo "unknown word '$1'; see the head of $0" >&2
      exit 2
      ;;
  esac
  shift
done
((${#names[@]})) || names=(longbench leval infinitebench needle ruler)
configs=()
for name in "${names[@]}"; do configs+=("configs/eval_${name}_reattn.py"); done

if [[ $dry ]]; then
  exec python -m reattention_eval.harness.list_jobs "${configs[@]}"
fi
# what is missing is said for all of them before hours are spent on the first
python -m reattention_eval.harness.list_jobs --check "${configs[@]}" || exit 1

failed=()
for name in "${names[@]}"; do
  echo "== $name"
  opencompass "configs/eval_${name}_reattn.py" -w "$out/$name" -r "$@" || failed+=("$name")
done
for name in "${names[@]}"; do
  ls -d "$out/$name"/*/report/table.md 2>/dev/null | tail -n 1
done
if ((${#failed[@]})); then
  echo "not whole: ${failed[*]} (their last lines say why; run the same command again)" >&2
  exit 1
fi
