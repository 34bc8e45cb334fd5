"""What a model really answered: some samples of every dataset, under every method, to be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reattention_eval.errors import DataError
from reattention_eval.report.fields import is_count
from reattention_eval.report.labels import method_labels, model_name
from reattention_eval.report.predictions import read_predictions
from reattention_eval.report.run import Cell
from reattention_eval.report.shown import visible
from reattention_eval.report.tables import markdown_text

QUESTION, ANSWER = 400, 600  # characters shown of the prompt's end, and of an answer


def answers_page(
    runs: Sequence[tuple[Path, Sequence[Cell]]], asked: Sequence[Path], samples: int = 1
) -> str:
    """Markdown: for each dataset the same `samples` first samples, the end of the prompt, what was
    right, and what the model answered under each method, with the sample's score.

    Args:
        runs: folders and the cells that were read from them.
        asked: folders as they were given.

    Raises:
        DataError: none has scored predictions, or a damaged file.
    """
    parts = ["# What the model answered\n"]
    for work_dir, every in runs:
        cells = [cell for cell in every if cell.result and cell.details]
        labels = method_labels(cells)
        for dataset in dict.fromkeys(cell.dataset for cell in cells):
            own = [cell for cell in cells if cell.dataset == dataset]
            parts += _dataset(work_dir, dataset, own, labels, samples)
    if len(parts) == 1:
        raise DataError(
            f"{', '.join(map(str, asked))}: no scored predictions to show; the evaluation has "
            "to end first."
        )
    return "\n".join(parts)


def _dataset(
    work_dir: Path, dataset: str, cells: Sequence[Cell], labels: dict[str, str], samples: int
) -> Iterator[str]:
    yield f"## {dataset.rpartition('-')[0] or dataset}\n"
    read = {cell.model: _predictions(work_dir, cell) for cell in cells}
    for i in range(min(samples, *(len(cell.details) for cell in cells))):
        first = cells[0]
        detail = first.details[i]
        prompt = _prompt(read[first.model], detail)
        tokens = detail.get("n_tokens")
        size = f", {tokens:,} tokens" if is_count(tokens) else ""
        yield f"Sample {i}{size}. The prompt ends:\n"
        yield _quoted(prompt[-QUESTION:])
        yield f"Right: {_inline(detail.get('reference'))}\n"
        yield "| method | score | answer |\n| --- | ---: | --- |"
        for cell in cells:
            own = cell.details[i]
            score = own.get("score", own.get("accuracy"))
            shown = "-" if score is None else f"{float(score):.1f}"
            name = labels[cell.model]
            if len({model_name(c) for c in cells}) > 1:
                name = f"{model_name(cell)}: {name}"
            yield f"| {name} | {shown} | {_inline(own.get('prediction', ''))} |"
        yield ""


def _predictions(work_dir: Path, cell: Cell) -> dict[int, dict[str, Any]]:
    try:
        return read_predictions(work_dir, cell.model, cell.dataset)
    except ValueError as error:
        raise DataError(
            f"the predictions of {cell.model} on {cell.dataset} are damaged ({error}); delete "
            "their file and run again with `-r`."
        ) from error


def _prompt(predictions: dict[int, dict[str, Any]], detail: dict[str, Any]) -> str:
    """The prompt of a scored sample: scorers may order samples otherwise than predictions."""
    for entry in predictions.values():
        same = entry.get("gold") == detail.get("reference")
        if same and entry.get("prediction") == detail.get("prediction"):
            return str(entry.get("origin_prompt", ""))
    return ""


def _quoted(text: str) -> str:
    lines = (markdown_text(line) for line in text.split("\n"))
    return "".join(f"> {line}\n" for line in lines if line.strip())


def _inline(value: Any) -> str:
    """One line of a table."""
    several = value if isinstance(value, list) else [] if value is None else [value]
    text = ", ".join(map(str, several))
    return markdown_text(visible(" ".join(text[: 2 * ANSWER].split()), ANSWER)) or "(nothing)"
