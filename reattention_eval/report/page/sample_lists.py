"""The worst samples of each task, and some drawn at random, as text that cannot run."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reattention_eval.report.fields import is_number
from reattention_eval.report.frame import Frame, Row
from reattention_eval.report.run import Cell
from reattention_eval.report.sample_scores import LOWER_IS_BETTER
from reattention_eval.report.shown import visible
from reattention_eval.report.tables import titled

EACH = 5  # samples of a list
LONGEST = 600  # characters of an answer or reference
# what a sample's own figure is called, the first that is there
_FIGURES = ("score", "accuracy", "opencompass_score", "correct", "answer_nll")
_ANSWERS = ("prediction", "pred", "predictions", "origin_prediction")
_REFERENCES = ("reference", "answer", "references", "gold")


@dataclass(frozen=True)
class SampleLine:
    """One sample; `worth` is better where it is greater."""

    title: str
    index: int
    figure: str
    worth: float
    facts: str
    reference: str
    answer: str
    failed: bool = False


@dataclass(frozen=True)
class SampleList:
    """Of one dataset."""

    dataset: str
    n: int
    worst: list[SampleLine]
    drawn: list[SampleLine]


def sample_lists(frame: Frame) -> list[SampleList]:
    """A list a dataset, over all methods; failed samples are the worst."""
    out = []
    for dataset in dict.fromkeys(cell.dataset for cell in frame.cells):
        rows = titled(frame.rows, [dataset])
        found = [(row, title, place) for row, title in rows for place in _places(row, dataset)]
        # ties by chance, or all would be of the first method
        chance = random.Random(dataset)
        chance.shuffle(found)
        ranked = sorted(found, key=lambda one: _rank(one[0].cells[dataset], one[2]))
        worst = ranked[:EACH]
        taken = {(id(row), place) for row, _, place in worst}
        others = [one for one in found[: 2 * EACH] if (id(one[0]), one[2]) not in taken][:EACH]
        lines = [
            [_line(title, row.cells[dataset], place) for row, title, place in part]
            for part in (worst, others)
        ]
        if found:
            out.append(SampleList(dataset, len(found), *lines))
    return out


def _places(row: Row, dataset: str) -> Sequence[int]:
    """Samples by place among the details, or by index of the record where nothing is scored yet."""
    cell = row.cells[dataset]
    return range(len(cell.details)) if cell.details else sorted(cell.records)


def _entry(cell: Cell, place: int) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What the evaluator says of a sample, and its record."""
    details = cell.details
    if not details:
        return {}, cell.records[place]
    alike = len(details) == len(cell.records)  # else a record is no sample
    return details[place], cell.records.get(place, {}) if alike else {}


def _worth(cell: Cell, place: int) -> tuple[str, float]:
    detail, record = _entry(cell, place)
    if record.get("error"):
        return "failed", -math.inf
    for name in _FIGURES:
        value = detail.get(name, record.get(name))
        if name == "correct" and isinstance(value, bool):
            return ("right" if value else "wrong"), float(value)
        if is_number(value) and not math.isnan(value):
            words = f"{name.replace('_', ' ')} {value:.4g}"
            return words, -float(value) if name in LOWER_IS_BETTER else float(value)
    return "", 0.0


def _rank(cell: Cell, place: int) -> tuple[float, float]:
    """The worst first; of equal ones, the one whose right answer was the greater surprise."""
    detail, record = _entry(cell, place)
    nll: Any = detail.get("answer_nll", record.get("answer_nll"))
    known = is_number(nll) and not math.isnan(nll)
    return _worth(cell, place)[1], -float(nll) if known else 0.0


def _line(title: str, cell: Cell, place: int) -> SampleLine:
    detail, record = _entry(cell, place)
    figure, worth = _worth(cell, place)
    both = {**record, **detail}
    answer = record.get("error") or _first(both, _ANSWERS)
    return SampleLine(
        title, place, figure, worth, ", ".join(_facts(both)),
        _text(_first(both, _REFERENCES)), _text(answer), bool(record.get("error")),
    )  # fmt: skip


def _facts(both: Mapping[str, Any]) -> Iterator[str]:
    if is_number(both.get("n_tokens")):
        yield f"{both['n_tokens']:,.0f} tokens"
    if is_number(both.get("n_cut")) and both["n_cut"] > 0:
        yield f"{both['n_cut']:,.0f} of them cut from the middle"
    if is_number(both.get("depth")):
        yield f"needle at {both['depth']:g} %"
    if is_number(both.get("answer_nll")):
        yield f"answer NLL {both['answer_nll']:.2f}"
    steps: Any = both.get("layer_steps")
    chosen: Any = both.get("layer_steps_selected")
    if is_number(steps) and is_number(chosen) and steps >= chosen > 0:
        yield f"selected in {100 * chosen / steps:.0f} % of the layer-steps"


def _first(both: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((both[name] for name in names if both.get(name) is not None), "")


def _text(value: Any) -> str:
    """Cut before anything else is done with it: it may be megabytes."""
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False, default=str)
    return visible(value, LONGEST)
