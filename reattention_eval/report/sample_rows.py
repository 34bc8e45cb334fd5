"""The samples of a cell, one by one: what was asked, what was answered, what it scored.

Records say how an answer came about, the result's details what it scored, the predictions file
begins and ends its prompt; a sample is what the three say under one index.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from reattention_eval.json_text import read_object
from reattention_eval.report.fields import is_count, is_number
from reattention_eval.report.run import Cell

# figures of a sample under names that no result has
_SCORES = ("score", "opencompass_score")
# what details say besides scores, and is not said elsewhere
_FACTS = ("depth", "repeat", "document", "sample")


@dataclass(frozen=True)
class SampleRow:
    """One sample of a cell.

    Args:
        scores: figures by name, in the unit of the cell's own (percent, or nats for answer_nll).
        facts: where it stands in its dataset (depth, repeat, document, sample).
        prompt: as the predictions file holds it: whole, or head and tail; None where it was not
            asked for, or is not there.
        error: why there is no answer.
    """

    index: int
    prediction: str
    reference: Any
    record: Mapping[str, Any] = field(repr=False)
    scores: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    prompt: str | None = field(default=None, repr=False)
    error: str | None = None


def sample_rows(cell: Cell, work_dir: Path | None = None) -> list[SampleRow]:
    """Every sample of which a record or prediction exists, by index.

    Args:
        work_dir: the run, to read prompts from; None: rows have none.

    Raises:
        ValueError, OSError: a predictions file is damaged or cannot be read.
    """
    details = details_by_index(cell)
    saved = {} if work_dir is None else _predictions(cell, work_dir)
    indices = sorted({*cell.records, *saved, *(() if cell.records else details)})
    return [_row(i, cell, details.get(i, []), saved.get(i, {})) for i in indices]


def details_by_index(cell: Cell) -> dict[int, list[dict[str, Any]]]:
    """The evaluator's entries of each sample; {} where they do not say whose they are.

    Several needles of one prompt have an entry each.
    """
    details = cell.result.get("details")
    if isinstance(details, dict):  # OpenCompass's own evaluators: {"type": "GEN", "0": {...}, ...}
        numbered = {int(k): d for k, d in details.items() if k.isdigit() and isinstance(d, dict)}
        return {i: [detail] for i, detail in numbered.items()}
    listed = [d for d in details if isinstance(d, dict)] if isinstance(details, list) else []
    n = cell.manifest.get("dataset", {}).get("n")
    n = len(cell.records) if n is None else n
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for i, detail in _numbered(listed, n):
        found[i].append(detail)
    return dict(found)


def main_scores(cell: Cell, rows: Iterable[SampleRow]) -> list[str]:
    """The figures of the cell that its samples have too."""
    own = {name for row in rows for name in row.scores}
    return [name for name in cell.result if name in own and is_number(cell.result[name])]


def _numbered(details: list[dict[str, Any]], n: int) -> Iterator[tuple[int, dict[str, Any]]]:
    if all(is_count(detail.get("index")) for detail in details):
        yield from ((detail["index"], detail) for detail in details)
        return
    documents = [(d.get("document"), d.get("sample")) for d in details]
    repeats = list(dict.fromkeys(str(detail.get("repeat")) for detail in details))
    if len(details) == n and all(is_count(d) and is_count(s) for d, s in documents):
        # prompts of one document follow each other; details are in the file's order
        order = sorted(range(n), key=lambda i: documents[i])
        yield from ((index, details[i]) for index, i in enumerate(order))
    elif len(details) == n:
        yield from enumerate(details)
    elif len(repeats) == n:  # a prompt asks for several needles
        yield from ((repeats.index(str(d.get("repeat"))), d) for d in details)


def _row(
    index: int, cell: Cell, details: list[dict[str, Any]], saved: Mapping[str, Any]
) -> SampleRow:
    record = cell.records.get(index, {})
    texts: tuple[Any, ...] = (record.get("prediction"), saved.get("prediction"))
    texts += tuple(d.get(key) for d in details[:1] for key in ("prediction", "origin_prediction"))
    value = record.get("value")
    shown = next((t for t in texts if isinstance(t, str)), "" if value is None else str(value))
    golds: tuple[Any, ...] = (record.get("gold"), saved.get("gold"))
    golds += tuple(d.get(key) for d in details[:1] for key in ("reference", "references"))
    scores = _scores(details)
    nll: Any = record.get("answer_nll")
    if is_number(nll) and not math.isnan(nll):
        scores.setdefault("answer_nll", float(nll))
    order = [name for name in cell.result if name in scores]  # as the evaluator has them
    prompt = saved.get("origin_prompt")
    return SampleRow(
        index=index,
        prediction=shown,
        reference=next((gold for gold in golds if gold is not None), None),
        record=record,
        scores={name: scores[name] for name in (*order, *scores)},
        facts={k: d[k] for d in details[:1] for k in _FACTS if k in d} if len(details) == 1 else {},
        prompt=None if prompt is None else prompt if isinstance(prompt, str) else str(prompt),
        error=str(record["error"]) if record.get("error") else None,
    )


def _scores(details: list[dict[str, Any]]) -> dict[str, float]:
    """The mean of each over a prompt's needles."""
    names = dict.fromkeys(name for detail in details for name in _own(detail))
    return {name: fmean(_own(d)[name] for d in details if name in _own(d)) for name in names}


_NOT_SCORES = frozenset((*_FACTS, "index", "length", "n_tokens", "n_cut", "reference"))


def _own(detail: Mapping[str, Any]) -> dict[str, float]:
    own = {
        name: float(value)
        for name, value in detail.items()
        if name not in _NOT_SCORES and is_number(value) and not math.isnan(value)
    }
    if isinstance(detail.get("correct"), bool):  # as OpenCompass's own evaluators judge
        own["accuracy"] = 100.0 * detail["correct"]
    return own


def _predictions(cell: Cell, work_dir: Path) -> dict[int, dict[str, Any]]:
    """The entries of a predictions file, or of the parts of one."""
    folder = work_dir / "predictions" / cell.model
    whole = folder / f"{cell.dataset}.json"
    parts = [whole] if whole.is_file() else _parts(folder, cell.dataset)
    found: dict[int, dict[str, Any]] = {}
    for path in parts:
        offset = len(found)
        for key, entry in read_object(path).items():
            if key.isdigit() and isinstance(entry, dict):
                found[offset + int(key)] = entry
    return found


def _parts(folder: Path, dataset: str) -> list[Path]:
    found = [
        path for path in folder.glob(f"{dataset}_*.json") if path.stem[len(dataset) + 1 :].isdigit()
    ]
    return sorted(found, key=lambda path: int(path.stem.rsplit("_", 1)[1]))
