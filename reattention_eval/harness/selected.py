"""What a method attended to where a run's answers were wrong.

    python -m reattention_eval.harness.selected outputs/real_tables --model qwen2.5-coder-1.5b-q4 \
        --dataset ruler-niah_multikey

Reads the first failing sample of each dataset whose name begins so once more, all but its last
token, and writes down which positions each layer chooses for that token, asked as a step of its
own. WORK_DIR/selected/MODEL/DATASET-INDEX.json; `reattention-eval curve` draws it.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from reattention_eval.benchmarks import find_benchmark
from reattention_eval.benchmarks.base import Row
from reattention_eval.checkpoints import model_path
from reattention_eval.errors import ConfigError
from reattention_eval.harness.prompt_runner import PromptRunner
from reattention_eval.harness.run_folder import write_whole
from reattention_eval.harness.samples import Sample
from reattention_eval.report import latest_work_dir
from reattention_eval.report.run import Cell, read_run
from reattention_eval.report.selected import FOLDER


def failing(cells: Sequence[Cell], method: str, dataset: str) -> Iterator[tuple[Cell, int]]:
    """The first sample without a point of each of the method's datasets whose name begins so."""
    for cell in cells:
        if cell.manifest.get("method", {}).get("name") != method:
            continue
        scores = [detail.get("accuracy", detail.get("score")) for detail in cell.details]
        if cell.dataset.startswith(dataset) and 0 in scores:
            yield cell, scores.index(0)


def rows_of(cell: Cell, tokenizer: str) -> list[Row]:
    """The prompts that a cell's manifest describes."""
    facts = cell.manifest["dataset"]
    benchmark = find_benchmark(str(facts["benchmark"]))
    takes = inspect.signature(benchmark.rows).parameters
    recipe = {key: facts[key] for key in takes if key in facts and key != "task"}
    return benchmark.rows(str(facts["task"]), tokenizer, **recipe)


def selected(runner: PromptRunner, row: Row, chat_template: bool) -> dict[str, Any]:
    """Ranges of positions by layer, and of the right answers in the prompt.

    Raises:
        ConfigError: the prompt fits into what the method attends to whole.
    """
    sample = Sample(
        row["prompt"], row.get("answer_prefix") or "", None, chat_template, row.get("system")
    )
    ids = runner.prepared(sample).input_ids
    session = runner.session
    session.prefill(torch.tensor([ids[:-1]], device=runner.model.device), max_new_tokens=1)
    with session.watching_views() as views:
        session.decode(torch.tensor([[ids[-1]]], device=runner.model.device))
    seen = views()
    session.reset()
    if not any(seen):
        raise ConfigError(
            f"nothing is selected from {len(ids)} tokens by {runner.method.name}; choose a longer "
            "dataset."
        )
    reference = row["reference"]
    answers = [reference] if isinstance(reference, str) else [str(answer) for answer in reference]
    found = [at for answer in answers for at in _places(ids, _tokens(runner, answer))]
    return {
        "n_tokens": len(ids),
        "layers": {
            layer: list(zip(spans[::2], spans[1::2], strict=True))
            for layer, spans in enumerate(seen)
            if spans
        },
        "answers": found,
    }


def _tokens(runner: PromptRunner, text: str) -> list[int]:
    return list(runner.tokenizer(text, add_special_tokens=False)["input_ids"])


def _places(ids: Sequence[int], part: Sequence[int]) -> list[tuple[int, int]]:
    n, want = len(part), list(part)
    starts = (i for i, token in enumerate(ids) if n and token == want[0])
    return [(i, i + n) for i in starts if list(ids[i : i + n]) == want]


def main(words: Sequence[str] | None = None) -> int:
    """Status 1 where no such sample failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("--model", required=True, help="folder, hub id or embedded model")
    parser.add_argument("--dataset", default="", help="how the dataset's name begins")
    parser.add_argument("--method", default="reattention")
    parser.add_argument("--most", type=int, default=1, help="so many datasets")
    asked = parser.parse_args(words)
    work_dir, path = latest_work_dir(asked.work_dir), model_path(asked.model)
    chosen = list(failing(read_run(work_dir), asked.method, asked.dataset))[: asked.most]
    for cell, index in chosen:
        runner = _runner(path, cell)
        try:
            row = rows_of(cell, path)[index]
            found = selected(runner, row, bool(cell.manifest["dataset"].get("chat_template")))
        finally:
            runner.close()
        own = {"model": cell.model, "dataset": cell.dataset, "index": index}
        detail = cell.details[index]
        file = work_dir / FOLDER / cell.model / f"{cell.dataset}-{index}.json"
        answer = {"reference": row["reference"], "prediction": detail["prediction"]}
        write_whole(file, {**own, **answer, **found})
        print(file)
    if not chosen:
        print(f"no sample of {asked.method} on {asked.dataset or 'any dataset'} got no point")
    return 0 if chosen else 1


def _runner(path: str, cell: Cell) -> PromptRunner:
    method, settings = cell.manifest["method"], cell.manifest["model"]["settings"]
    return PromptRunner(
        path,
        {"type": method["name"], **method["settings"]},
        dtype=settings["dtype"],
        chat_template=settings["chat_template"],
    )


if __name__ == "__main__":
    raise SystemExit(main())
