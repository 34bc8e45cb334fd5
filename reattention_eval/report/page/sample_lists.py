"""The worst samples of each task, and some drawn at random, as text that cannot run."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reattention_eval.report.fields import is_number
from reattention_eval.report.frame import Frame
from reattention_eval.report.run import Cell
from reattention_eval.report.sample_scores import LOWER_IS_BETTER, details_by_index
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


@dataclass(frozen=True)
class _Sample:
    """What the evaluator says of a sample, or of one needle of its prompt, and its record."""

    title: str
    index: int
    detail: Mapping[str, Any]
    record: Mapping[str, Any]


def sample_lists(frame: Frame) -> list[SampleList]:
    """A list a dataset, over all methods; failed samples are the worst."""
    out = []
    for dataset in dict.fromkeys(cell.dataset for cell in frame.cells):
        rows = titled(frame.rows, [dataset])
        found = [one for row, title in rows for one in _samples(title, row.cells[dataset])]
        # ties by chance, or all would be of the first method
        chance = random.Random(dataset)
        chance.shuffle(found)
        worst = sorted(found, key=_rank)[:EACH]
        taken = set(map(id, worst))
        others = [one for one in found[: 2 * EACH] if id(one) not in taken][:EACH]
        if found:
            lines = [[_line(one) for one in part] for part in (worst, others)]
            out.append(SampleList(dataset, len(found), *lines))
    return out


def _samples(title: str, cell: Cell) -> Iterator[_Sample]:
    """By the evaluator's details, or by records where nothing is scored yet."""
    if not cell.details:
        yield from (_Sample(title, i, {}, record) for i, record in sorted(cell.records.items()))
        return
    # evaluators may have samples in another order than they were run in
    index_of = {id(d): i for i, own in details_by_index(cell).items() for d in own}
    for place, detail in enumerate(cell.details):
        index = index_of.get(id(detail))
        if index is None:
            yield _Sample(title, place, detail, {})
        else:
            yield _Sample(title, index, detail, cell.records.get(index, {}))


def _worth(one: _Sample) -> tuple[str, float]:
    if one.record.get("error"):
        return "failed", -math.inf
    for name in _FIGURES:
        value = one.detail.get(name, one.record.get(name))
        if name == "correct" and isinstance(value, bool):
            return ("right" if value else "wrong"), float(value)
        if is_number(value) and not math.isnan(value):
            words = f"{name.replace('_', ' ')} {value:.4g}"
            return words, -float(value) if name in LOWER_IS_BETTER else float(value)
    return "", 0.0


def _rank(one: _Sample) -> tuple[float, float]:
    """The worst first; of equal ones, the one whose right answer was the greater surprise."""
    nll: Any = one.detail.get("answer_nll", one.record.get("answer_nll"))
    known = is_number(nll) and not math.isnan(nll)
    return _worth(one)[1], -float(nll) if known else 0.0


def _line(one: _Sample) -> SampleLine:
    figure, worth = _worth(one)
    both = {**one.record, **one.detail}
    error = one.record.get("error")
    return SampleLine(
        one.title, one.index, figure, worth, ", ".join(_facts(both)),
        _text(_first(both, _REFERENCES)), _text(error or _first(both, _ANSWERS)), bool(error),
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
