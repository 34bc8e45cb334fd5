"""The samples of a cell, one by one: what was asked, what was answered, what it scored.

Records say how an answer came about, the result's details what it scored, the predictions file
begins and ends its prompt; a sample is what the three say under one index.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reattention_eval.report.fields import is_number
from reattention_eval.report.predictions import read_predictions
from reattention_eval.report.run import Cell
from reattention_eval.report.running_score import Scorer, is_joined, scorer_of
from reattention_eval.report.sample_scores import FACTS, details_by_index, scores_of


@dataclass(frozen=True)
class SampleRow:
    """One sample of a cell.

    Args:
        scores: figures by name, in the unit of the cell's own (percent, or nats for answer_nll);
            before the evaluator has told them, the official one of the sample by itself.
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
    saved = {} if work_dir is None else read_predictions(work_dir, cell.model, cell.dataset)
    about = cell.manifest.get("dataset", {})
    if joined := bool(details) and is_joined(about):
        indices = sorted(details)
    else:
        indices = sorted({*cell.records, *saved, *(() if cell.records else details)})
    scorer = None if cell.result else scorer_of(about)
    return [_row(i, cell, details.get(i, []), saved.get(i, {}), scorer, joined) for i in indices]


def main_scores(cell: Cell, rows: Iterable[SampleRow]) -> list[str]:
    """The figures of the cell that its samples have too."""
    own = {name for row in rows for name in row.scores}
    return [name for name in cell.result if name in own and is_number(cell.result[name])]


def _row(
    index: int,
    cell: Cell,
    details: list[dict[str, Any]],
    saved: Mapping[str, Any],
    scorer: Scorer | None,
    joined: bool,
) -> SampleRow:
    record = cell.records.get(index, {})
    # of two prompts that are one sample the record has the first's answer
    texts: tuple[Any, ...] = () if joined else (record.get("prediction"), saved.get("prediction"))
    texts += tuple(d.get(key) for d in details[:1] for key in ("prediction", "origin_prediction"))
    value = record.get("value")
    shown = next((t for t in texts if isinstance(t, str)), "" if value is None else str(value))
    golds: tuple[Any, ...] = (record.get("gold"), saved.get("gold"))
    golds += tuple(d.get(key) for d in details[:1] for key in ("reference", "references"))
    scores = scores_of(details)
    if not scores and scorer and (scored := scorer(record)):
        scores = dict([scored])
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
        facts={k: d[k] for d in details[:1] for k in FACTS if k in d} if len(details) == 1 else {},
        prompt=None if prompt is None else prompt if isinstance(prompt, str) else str(prompt),
        error=str(record["error"]) if record.get("error") else None,
    )
