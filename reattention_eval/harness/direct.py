"""The needle test without OpenCompass, in this process: same names, same files, same report.

For machines where OpenCompass cannot be installed:

    python -m reattention_eval.harness.direct --model DIR --methods configs/methods/demo.py
"""

from __future__ import annotations

import argparse
import json
import logging
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reattention_eval.harness.compose import needle_run
from reattention_eval.harness.needle_rows import needle_result, needle_rows
from reattention_eval.harness.prompt_runner import PromptRunner
from reattention_eval.harness.record_file import write_whole
from reattention_eval.harness.sample_run import SampleRun
from reattention_eval.harness.samples import Sample
from reattention_eval.report import Report, build_report

_NOT_RUNNER = {"abbr", "method", "path", "run_cfg", "batch_size", "max_out_len", "type"}


def run_needles(
    models: Sequence[Mapping[str, Any]], datasets: Sequence[Mapping[str, Any]], work_dir: Path
) -> Report:
    """Run what `compose.needle_run` gave; what is in `work_dir` already is not run again."""
    for model in models:
        settings = {key: value for key, value in model.items() if key not in _NOT_RUNNER}
        runner = PromptRunner(str(model["path"]), model["method"], **settings)
        for dataset in datasets:
            _run_one(runner, str(model["abbr"]), dataset, work_dir)
        runner.close()
    expected = [(str(m["abbr"]), str(d["abbr"])) for m in models for d in datasets]
    return build_report(work_dir, expected)


def _run_one(runner: PromptRunner, abbr: str, dataset: Mapping[str, Any], work_dir: Path) -> None:
    ask = dataset["infer_cfg"]["inferencer"]
    facts = ask["dataset_facts"]
    recipe = {key: value for key, value in facts.items() if key != "benchmark"}
    rows = needle_rows(dataset["tokenizer"], **recipe)
    samples = [
        Sample(row["prompt"], row["answer_prefix"], row["continuation"], facts["chat_template"])
        for row in rows
    ]
    path = work_dir / "predictions" / abbr / f"{dataset['abbr']}.json"
    run = SampleRun(runner, ask["max_out_len"], facts=facts)
    if not run(samples, [row["reference"] for row in rows], path):
        return
    saved = json.loads(path.read_text(encoding="ascii"))
    kept = [saved[str(i)] for i in range(len(rows))]
    predictions, nll, tokens = (
        [entry[key] for entry in kept] for key in ("prediction", "answer_nll", "n_tokens")
    )
    result = needle_result(rows, predictions, nll, tokens, facts["style"])
    write_whole(work_dir / "results" / abbr / path.name, result)


def main(words: Sequence[str] | None = None) -> int:
    """Status 1 if anything is missing or failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", required=True, help="folder of a checkpoint, or hub id")
    parser.add_argument("--name", help="what tables call it")
    parser.add_argument("--methods", type=Path, required=True, help="a file like configs/methods/*")
    parser.add_argument("--lengths", type=int, nargs="+", required=True)
    parser.add_argument("--depths", type=float, nargs="+", default=[10, 50, 90])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--haystack", default="essays")
    parser.add_argument("--style", default="magic_number")
    parser.add_argument("--no-chat-template", action="store_true")
    parser.add_argument("--work-dir", type=Path, default=Path("outputs/direct"))
    asked = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO)
    model = {"path": asked.model, "chat_template": not asked.no_chat_template}
    if asked.name:
        model["abbr"] = asked.name
    run = needle_run(
        [model],
        runpy.run_path(str(asked.methods))["methods"],
        asked.lengths,
        asked.depths,
        asked.repeats,
        haystack=asked.haystack,
        style=asked.style,
    )
    report = run_needles(run["models"], run["datasets"], asked.work_dir)
    print((asked.work_dir / "report" / "table.md").read_text(encoding="utf-8"))
    return 1 if report.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
