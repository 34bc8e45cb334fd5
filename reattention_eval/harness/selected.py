"""What a method attended to where a run's answers were wrong.

    python -m reattention_eval.harness.selected outputs/real_tables --model qwen2.5-coder-1.5b-q4 \
        --dataset ruler-niah_multikey

Runs one failing sample of each dataset whose name begins so once more, as the run did, and writes
down what each layer attended to from the prompt's last chunk, and then, given the right answer
token by token, whether it still attended to the place that the answer stands at.
WORK_DIR/selected/MODEL/DATASET-INDEX.json; `reattention-eval curve` makes pages and pictures of it.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reattention_eval.attention import ends_of_chunks, last_part
from reattention_eval.benchmarks import find_benchmark
from reattention_eval.benchmarks.base import Row
from reattention_eval.checkpoints import model_path
from reattention_eval.errors import ConfigError, ReAttentionError
from reattention_eval.harness.job_runs import sample_of
from reattention_eval.harness.prompt_runner import PromptRunner
from reattention_eval.harness.run_folder import write_whole
from reattention_eval.harness.text import answer_token_ids
from reattention_eval.harness.text_places import places
from reattention_eval.methods import Method, ViewMethod
from reattention_eval.prompts import PreparedPrompt
from reattention_eval.report import latest_work_dir
from reattention_eval.report.labels import method_labels, model_name
from reattention_eval.report.page.plots import in_pairs
from reattention_eval.report.run import Cell, read_run
from reattention_eval.report.sample_rows import SampleRow, sample_rows
from reattention_eval.report.selected import FOLDER, held
from reattention_eval.report.stale import stale

MOST_STEPS = 64  # tokens of the right answer
_ENDS = 1200  # characters of a prompt's end
_AROUND = " \t\n.,:;!?\"'`*"  # of an answer, that a text would not have


@dataclass(frozen=True)
class Failed:
    """A sample without a point, and what other methods of the run made of it, by their names."""

    cell: Cell
    row: SampleRow
    others: dict[str, dict[str, Any]]


def failing(
    cells: Sequence[Cell], method: str, dataset: str, index: int | None = None
) -> Iterator[Failed]:
    """A sample of each of the method's datasets whose name begins so: the first without a point, of
    those that another method of the model got right where there are any; or the one asked for.

    Raises:
        ConfigError: a result is of earlier predictions.
    """
    labels = method_labels(cells)
    for cell in cells:
        own = cell.manifest.get("method", {}).get("name") == method
        if not own or not cell.result or not cell.dataset.startswith(dataset):
            continue
        if told := stale(cell):
            raise ConfigError(f"{cell.model} on {cell.dataset}: {told}")
        beside = {
            labels[other.model]: {row.index: row for row in sample_rows(other)}
            for other in cells
            if other is not cell and other.result and other.dataset == cell.dataset
            and model_name(other) == model_name(cell) and not stale(other)
        }  # fmt: skip
        rows = sample_rows(cell)
        if index is not None:
            rows = [row for row in rows if row.index == index]
        else:
            rows = [row for row in rows if _score(row) == 0]
            found = {i for one in beside.values() for i, row in one.items() if _score(row)}
            rows.sort(key=lambda row: row.index not in found)
        for row in rows[:1]:
            others = {name: one[row.index] for name, one in beside.items() if row.index in one}
            yield Failed(cell, row, {name: _answer(one) for name, one in others.items()})


def _score(row: SampleRow) -> float | None:
    return row.scores.get("accuracy", row.scores.get("score"))


def _answer(row: SampleRow) -> dict[str, Any]:
    return {"prediction": row.prediction, "score": _score(row)}


def rows_of(cell: Cell, tokenizer: str) -> list[Row]:
    """The prompts that a cell's manifest describes."""
    facts = cell.manifest["dataset"]
    benchmark = find_benchmark(str(facts["benchmark"]))
    takes = inspect.signature(benchmark.rows).parameters
    recipe = {key: facts[key] for key in takes if key in facts and key != "task"}
    return benchmark.rows(str(facts["task"]), tokenizer, **recipe)


def selected(runner: PromptRunner, row: Row, failed: Failed) -> dict[str, Any]:
    """The entries of a file: see `report.selected.Selected`.

    Raises:
        ConfigError: the prompt is not the run's, or fits into what the method attends to whole.
    """
    about, record = failed.cell.manifest["dataset"], failed.row.record
    new, limit = int(about["max_out_len"]), about.get("max_prompt_tokens")
    sample = sample_of(row, bool(about.get("chat_template")))
    prompt = runner.prepared(sample, new, limit)
    if prompt.sha256 != record.get("prompt_sha256"):
        raise ConfigError(
            f"sample {failed.row.index} of {failed.cell.dataset} has another prompt than in the "
            "run; take the model, data and version that its manifest names."
        )
    (output,) = runner.run([sample], new, about.get("stop_words") or (), limit)
    answers = [row["reference"]] if isinstance(row["reference"], str) else list(row["reference"])
    answers = [answer for answer in map(str, answers) if answer]
    found = [at for answer in answers for at in places(runner.tokenizer, prompt.input_ids, answer)]
    said = places(runner.tokenizer, prompt.input_ids, output.text.strip(_AROUND))
    right = row.get("continuation") or (answers[0] if answers else "")
    right_ids = answer_token_ids(runner.tokenizer, sample.answer_prefix, right) if right else []
    views, steps = _steps(runner, prompt, right_ids[:MOST_STEPS], found)
    if not any(views):
        raise ConfigError(
            f"nothing is selected from {prompt.n_tokens} tokens by {runner.method.name}; choose a "
            "longer dataset."
        )
    return {
        "reference": row["reference"],
        "prediction": failed.row.prediction,
        "score": _score(failed.row),
        "again": output.text,
        "others": failed.others,
        "prompt_ends": row["prompt"][-_ENDS:] + sample.answer_prefix,
        "n_tokens": prompt.n_tokens,
        "last_chunk": _last_chunk(runner.method, prompt),
        "layers": {layer: in_pairs(spans) for layer, spans in enumerate(views) if spans},
        "answers": found,
        "answered": [at for at in said if at not in found],
        "steps": steps,
    }


def _last_chunk(method: Method, prompt: PreparedPrompt) -> int:
    """Tokens of the chunk that ends a prompt."""
    assert isinstance(method, ViewMethod)  # it chose views
    last = last_part(method, prompt.n_tokens, prompt.document_tokens)
    *before, end = [0, *ends_of_chunks(method, prompt.n_tokens, last)]
    return end - before[-1]


def _steps(
    runner: PromptRunner,
    prompt: PreparedPrompt,
    right: Sequence[int],
    found: list[tuple[int, int]],
) -> tuple[list[list[int]], list[dict[str, Any]]]:
    """What layers attended to from the prompt's last chunk; and for each token of the right answer,
    read behind those before it: the token, what the model would have said there, and how many
    layers attended to a place of the answer."""
    session, device = runner.session, runner.model.device
    with session.watching_views() as views:
        logits = session.prefill(
            torch.tensor([prompt.input_ids], device=device),
            reuse_prefix=True,
            max_new_tokens=len(right),
            document_tokens=prompt.document_tokens,
        )
    first = seen = views()
    steps = []
    for token in right:
        steps.append(
            {
                "right": runner.tokenizer.decode([token]),
                "chosen": runner.tokenizer.decode([int(logits[0].argmax())]),
                "reached": sum(not spans or held(in_pairs(spans), found) for spans in seen),
            }
        )
        with session.watching_views() as views:
            logits = session.decode(torch.tensor([[token]], device=device))
        seen = views()
    session.reset()
    return first, steps


def main(words: Sequence[str] | None = None) -> int:
    """Status 1 where no such sample failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("--model", required=True, help="folder, hub id or embedded model")
    parser.add_argument("--dataset", default="", help="how the dataset's name begins")
    parser.add_argument("--method", default="reattention")
    parser.add_argument("--most", type=int, default=1, help="so many datasets")
    parser.add_argument("--index", type=int, help="this sample, whatever it scored")
    asked = parser.parse_args(words)
    work_dir, path = latest_work_dir(asked.work_dir), model_path(asked.model)
    cells = read_run(work_dir)
    labels, every = method_labels(cells), failing(cells, asked.method, asked.dataset, asked.index)
    chosen = [one for _, one in zip(range(asked.most), every, strict=False)]
    for failed in chosen:
        cell, index = failed.cell, failed.row.index
        runner = _runner(path, cell)
        try:
            found = selected(runner, rows_of(cell, path)[index], failed)
        finally:
            runner.close()
        own = {
            "model": model_name(cell), "method": labels[cell.model],
            "dataset": cell.dataset, "index": index,
        }  # fmt: skip
        file = work_dir / FOLDER / cell.model / f"{cell.dataset}-{index}.json"
        write_whole(file, {**own, **found})
        print(file)
    if not chosen:
        what = "got no point" if asked.index is None else f"has the index {asked.index}"
        print(f"no sample of {asked.method} on {asked.dataset or 'any dataset'} {what}")
    return 0 if chosen else 1


def _runner(path: str, cell: Cell) -> PromptRunner:
    method, settings = cell.manifest["method"], cell.manifest["model"]["settings"]
    kept = ("dtype", "max_seq_len", "max_prompt_tokens", "chat_template", "system", "quantization",
            "stop_words", "stop_token_ids")  # fmt: skip
    return PromptRunner(
        path,
        {"type": method["name"], **method["settings"]},
        **{key: settings[key] for key in kept if settings.get(key) is not None},
    )


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except ReAttentionError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
