"""Evaluations without OpenCompass, in this process: same names, same files, same report.

For machines where OpenCompass cannot be installed:

    python -m reattention_eval.harness.standalone --model DIR --methods configs/methods/demo.py \\
        --plans configs/datasets/leval.py configs/datasets/ruler.py

or, with --lengths instead of --plans, the needle test. The REATTENTION_* variables choose a part
(harness/compose/run_variables.py), REATTENTION_MINUTES says how long it may take (harness/
time_limit.py).
"""

from __future__ import annotations

import argparse
import json
import logging
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reattention_eval.benchmarks import find_benchmark
from reattention_eval.benchmarks.base import Answer, Row
from reattention_eval.checkpoints import model_path
from reattention_eval.checkpoints.local import is_embedded
from reattention_eval.errors import ConfigError
from reattention_eval.harness.compose import Job, plan_jobs
from reattention_eval.harness.compose.model_method_pairs import folder_context_length
from reattention_eval.harness.prompt_runner import PromptRunner
from reattention_eval.harness.record_file import write_whole
from reattention_eval.harness.sample_run import SampleRun
from reattention_eval.harness.samples import Sample
from reattention_eval.harness.time_limit import is_over, run_ends
from reattention_eval.report import Report, build_report

# what a model's entry says to OpenCompass, or to the list of jobs
_NOT_RUNNER = {"abbr", "method", "path", "run_cfg", "batch_size", "max_out_len", "type"}


def run_standalone(jobs: Sequence[Job], work_dir: Path) -> Report:
    """Run what `plan_jobs` gave; what is in `work_dir` already is not run again.

    A dataset that cannot be made or scored is reported and the next one is taken. Nothing is begun
    once REATTENTION_MINUTES are over.
    """
    until = run_ends()
    by_model: dict[str, list[Job]] = {}
    for job in jobs:
        by_model.setdefault(job.names[0], []).append(job)
    for own in by_model.values():
        if is_over(until):
            break
        model = own[0].model
        settings = {key: value for key, value in model.items() if key not in _NOT_RUNNER}
        runner = PromptRunner(str(model["path"]), model["method"], **settings)
        for job in own:
            try:
                _run_one(runner, job, work_dir, until)
            except Exception:
                logging.exception(f"{'/'.join(job.names)} failed")
        runner.close()
    return build_report(work_dir, [job.names for own in by_model.values() for job in own])


def _run_one(runner: PromptRunner, job: Job, work_dir: Path, until: float | None) -> None:
    if is_over(until):
        return
    model, dataset = job.names
    asked, benchmark = job.asked, find_benchmark(job.benchmark)
    rows = benchmark.rows(asked.task, str(job.model["path"]), **asked.recipe)
    path = work_dir / "predictions" / model / f"{dataset}.json"
    run = SampleRun(
        runner,
        asked.max_out_len,
        stop_words=list(asked.stop_words),
        max_prompt_tokens=asked.max_prompt_tokens,
        facts={"chat_template": asked.chat_template, **asked.facts},
        until=until,
    )
    samples = [_sample(row, asked.chat_template) for row in rows]
    if not run(samples, [row["reference"] for row in rows], path):
        return
    saved = json.loads(path.read_text(encoding="ascii"))
    result = benchmark.result(
        asked.task, rows, [_answer(saved[str(i)]) for i in range(len(rows))], asked.scoring
    )
    write_whole(work_dir / "results" / model / path.name, result)


def _sample(row: Row, chat_template: bool) -> Sample:
    return Sample(
        prompt=row["prompt"],
        answer_prefix=row.get("answer_prefix") or "",
        answer=row.get("continuation"),
        chat_template=chat_template,
        system=row.get("system") or None,
        question=row.get("question"),
    )


def _answer(entry: dict[str, Any]) -> Answer:
    return Answer(
        entry["prediction"], entry["n_tokens"], entry["n_cut"], answer_nll=entry["answer_nll"]
    )


def read_plans(path: Path) -> list[dict[str, Any]]:
    """The plans of a file like configs/datasets/*.py: every dictionary, or list of them, in it.

    Raises:
        ConfigError: the file has none.
    """
    found: list[dict[str, Any]] = []
    for name, value in runpy.run_path(str(path)).items():
        if not name.startswith("_"):
            several = value if isinstance(value, list) else [value]
            found += [v for v in several if isinstance(v, dict) and "benchmark" in v]
    if not found:
        raise ConfigError(f"{path} holds no plan; give a file like configs/datasets/leval.py.")
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Status 1 if anything is missing or failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--model", required=True, help="folder of a checkpoint, hub id or embedded model"
    )
    parser.add_argument("--name", help="what tables call it")
    parser.add_argument("--methods", type=Path, required=True, help="a file like configs/methods/*")
    parser.add_argument("--plans", type=Path, nargs="+", help="files like configs/datasets/*")
    parser.add_argument("--lengths", type=int, nargs="+", help="of the needle test")
    parser.add_argument("--depths", type=float, nargs="+", default=[10, 50, 90])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--haystack", default="essays")
    parser.add_argument("--style", default="magic_number")
    parser.add_argument("--no-chat-template", action="store_true")
    parser.add_argument("--work-dir", type=Path, default=Path("outputs/standalone"))
    asked = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO)
    where = model_path(asked.model) if is_embedded(asked.model) else asked.model
    model: dict[str, Any] = {
        "path": where,
        "abbr": asked.name or Path(where.rstrip("/")).name,
        "chat_template": not asked.no_chat_template,
    }
    methods = runpy.run_path(str(asked.methods))["methods"]
    if bool(asked.plans) == bool(asked.lengths):
        parser.error("give --plans, or --lengths for the needle test")
    if window := folder_context_length(where):
        model["window"] = window
    needle = {
        "benchmark": "needle", "style": asked.style, "lengths": asked.lengths,
        "depths": asked.depths, "repeats": asked.repeats, "haystack": asked.haystack,
    }  # fmt: skip
    plans = [plan for path in asked.plans or () for plan in read_plans(path)] or [needle]
    report = run_standalone(plan_jobs([model], methods, plans), asked.work_dir)
    print((asked.work_dir / "report" / "table.md").read_text(encoding="utf-8"))
    return 1 if report.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
