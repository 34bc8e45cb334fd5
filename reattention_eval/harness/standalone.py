"""Evaluations without OpenCompass, in this process: same names, same files, same report.

For machines where OpenCompass cannot be installed:

    python -m reattention_eval.harness.standalone --model DIR --methods configs/methods/demo.py \\
        --plans configs/datasets/leval.py configs/datasets/ruler.py

or, with --lengths instead of --plans, the needle test. The REATTENTION_* variables choose a part
(harness/compose/run_variables.py), REATTENTION_MINUTES says how long it may take (harness/
time_limit.py). An embedded model's name gives the names and scopes of configs/models.

--prompts FOLDER keeps the prompts: what lies there is not made again, so that methods share them
and a rented GPU does not wait for a tokenizer. --only-prompts makes them and ends.

--share: the same command started several times, on one GPU or on several, is one run. Each process
takes the next dataset, plan by plan and method by method, that is neither done nor in another's
hands, and keeps the model for the next method. Tables: reattention-eval report WORK_DIR.
"""

from __future__ import annotations

import argparse
import logging
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reattention_eval.errors import ConfigError, ReAttentionError
from reattention_eval.harness.compose import Job, plan_jobs
from reattention_eval.harness.compose.begun_for import of_jobs
from reattention_eval.harness.compose.embedded_models import replacing_entry, scopes
from reattention_eval.harness.compose.model_method_pairs import folder_context_length
from reattention_eval.harness.job_runs import JobRuns
from reattention_eval.harness.prompt_files import kept_rows
from reattention_eval.report import Report, build_report
from reattention_eval.report.expected import note_expected


def run_standalone(jobs: Sequence[Job], work_dir: Path, prompts: Path | None = None) -> Report:
    """Run what `plan_jobs` gave, model by model; what is in `work_dir` already is not run again.

    A dataset that cannot be made or scored, or that another process writes, is reported and the
    next one is taken, and so is a model with method that does not load or attach. Nothing is begun
    once REATTENTION_MINUTES are over.

    Args:
        prompts: folder that keeps prompts (`prompt_files.kept_rows`).

    Raises:
        RunFolderError: `work_dir` takes no more files.
    """
    _note(work_dir, jobs)
    by_model: dict[str, list[Job]] = {}
    for job in jobs:
        by_model.setdefault(job.names[0], []).append(job)
    in_order = [job for own in by_model.values() for job in own]
    runs = JobRuns(work_dir, prompts)
    runs.run_all(in_order)
    runs.close()
    return build_report(work_dir, [job.names for job in in_order])


def _note(work_dir: Path, jobs: Sequence[Job]) -> None:
    note_expected(work_dir, [job.names for job in jobs], *of_jobs(jobs))


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


def model_entry(path: str, name: str | None = None, chat_template: bool = True) -> dict[str, Any]:
    """The entry of a folder, hub id or embedded model, as configurations have it."""
    model: dict[str, Any] = replacing_entry(path) or {
        "path": path,
        "abbr": Path(path.rstrip("/")).name,
    }
    if window := folder_context_length(str(model["path"])):
        model = {"method_settings": scopes(window), **model, "window": window}
    return {**model, "abbr": name or model["abbr"], "chat_template": chat_template}


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
    parser.add_argument("--prompts", type=Path, help="folder that keeps prompts")
    parser.add_argument("--only-prompts", action="store_true", help="make them and end")
    parser.add_argument("--share", action="store_true", help="with other processes that run this")
    asked = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO)
    methods = runpy.run_path(str(asked.methods))["methods"]
    if bool(asked.plans) == bool(asked.lengths):
        parser.error("give --plans, or --lengths for the needle test")
    if asked.only_prompts and not asked.prompts:
        parser.error("--only-prompts needs --prompts FOLDER")
    model = model_entry(asked.model, asked.name, not asked.no_chat_template)
    needle = {
        "benchmark": "needle", "style": asked.style, "lengths": asked.lengths,
        "depths": asked.depths, "repeats": asked.repeats, "haystack": asked.haystack,
    }  # fmt: skip
    plans = [plan for path in asked.plans or () for plan in read_plans(path)] or [needle]
    jobs = plan_jobs([model], methods, plans)
    if asked.only_prompts:
        for job in jobs:
            kept_rows(job, asked.prompts)
        return 0
    if asked.share:
        _note(asked.work_dir, jobs)
        runs = JobRuns(asked.work_dir, asked.prompts)
        runs.share_all(jobs)
        runs.close()
        return 1 if runs.failed else 0
    report = run_standalone(jobs, asked.work_dir, asked.prompts)
    print((asked.work_dir / "report" / "table.md").read_text(encoding="utf-8"))
    return 1 if report.problems else 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except ReAttentionError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
