"""How much faster L-Eval's questions are when those of one document share its cache.

    REATTENTION_DATA=DIR python scripts/prefix_reuse.py --documents 2 --json FILE

Runs the first questions of real documents one after another, as an evaluation does, and once more
with the cache emptied before each; the predictions must be equal.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch

from reattention_eval.benchmarks import find_benchmark
from reattention_eval.checkpoints import embedded_model_folder
from reattention_eval.harness.manifest import environment_part
from reattention_eval.harness.prompt_runner import PromptRunner
from reattention_eval.harness.samples import Sample


def questions(task: str, documents: int, each: int) -> list[dict[str, Any]]:
    """The first `each` questions of the first `documents` documents."""
    rows = [row for row in find_benchmark("leval").rows(task, "") if row["document"] < documents]
    counts: dict[int, int] = {}
    kept = []
    for row in rows:
        counts[row["document"]] = counts.get(row["document"], 0) + 1
        if counts[row["document"]] <= each:
            kept.append(row)
    return kept


def run(
    runner: PromptRunner, rows: list[dict[str, Any]], new_tokens: int, limit: int, share: bool
) -> dict[str, Any]:
    """Seconds, predictions and tokens of all rows.

    `cpu_seconds` is the process's own, which other processes on the machine do not lengthen.
    """
    runner.session.reset()
    start, own = time.perf_counter(), time.process_time()
    outputs = []
    for row in rows:
        if not share:
            runner.session.reset()
        sample = Sample(row["prompt"], row["answer_prefix"], system=row["system"])
        outputs += runner.run([sample], new_tokens, max_prompt_tokens=limit)
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - own,
        "prefill_seconds": sum(o.record["prefill_seconds"] for o in outputs),
        "tokens": [o.record["n_tokens"] for o in outputs],
        "reused": [o.record["reused_tokens"] for o in outputs],
        "cache_bytes": max(o.record["cache_bytes"] for o in outputs),
        "texts": [o.text for o in outputs],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=str(embedded_model_folder()))
    parser.add_argument("--tasks", nargs="+", default=["scientific_qa", "quality"])
    parser.add_argument("--methods", nargs="+", default=["full", "reattention"])
    parser.add_argument("--documents", type=int, default=2, help="of each task")
    parser.add_argument("--questions", type=int, default=6, help="of each document")
    parser.add_argument("--limit", type=int, default=7500, help="prompt tokens")
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    methods = [
        {"type": "full", "chunk_size": asked.chunk},
        {"type": "reattention", "local_size": 1024, "max_spans": 31, "chunk_size": asked.chunk},
    ]
    found = []
    for method in methods:
        if method["type"] not in asked.methods:
            continue
        runner = PromptRunner(asked.model, method, chat_template=True)
        for task in asked.tasks:
            rows = questions(task, asked.documents, asked.questions)
            new_tokens = find_benchmark("leval").task(task).max_out_len
            shared, alone = (
                run(runner, rows, new_tokens, asked.limit, share) for share in (True, False)
            )
            if shared["texts"] != alone["texts"]:
                raise SystemExit(f"{task} under {method['type']}: the predictions differ")
            found.append(
                {
                    "task": task,
                    "method": runner.method.name,
                    "budget": runner.method.budget,
                    "documents": asked.documents,
                    "questions": len(rows),
                    "mean_tokens": sum(shared["tokens"]) / len(rows),
                    "mean_reused_tokens": sum(shared["reused"]) / len(rows),
                    "prefilled_tokens": {
                        "shared": sum(shared["tokens"]) - sum(shared["reused"]),
                        "alone": sum(alone["tokens"]),
                    },
                    **{
                        key: {"shared": shared[key], "alone": alone[key]}
                        for key in ("seconds", "cpu_seconds", "prefill_seconds")
                    },
                    "cache_bytes": {"shared": shared["cache_bytes"], "alone": alone["cache_bytes"]},
                    "predictions_equal": True,
                }
            )  # fmt: skip
            print(json.dumps(found[-1]), flush=True)
            if asked.json:
                write(asked.json, Path(asked.model).name, found)
        runner.close()


def write(path: Path, model: str, found: list[dict[str, Any]]) -> None:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    record = {"model": model, "device": device, "runs": found, **environment_part()}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
