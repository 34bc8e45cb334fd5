"""One run against another, sample by sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reattention_eval.errors import ConfigError
from reattention_eval.report.paired import Difference, difference
from reattention_eval.report.pairs import (
    chosen,
    cut_notes,
    full_labels,
    pair_cells,
    refusal,
)
from reattention_eval.report.run import Cell, latest_work_dir, read_run
from reattention_eval.report.sample_rows import SampleRow, main_scores, sample_rows
from reattention_eval.report.sample_scores import LOWER_IS_BETTER

# a reference as the predictions file and the evaluator have it
_SAME = 1e-6


@dataclass(frozen=True)
class Changed:
    """A sample whose answer changed; `a` and `b` as `SampleRow` has them."""

    a: SampleRow
    b: SampleRow
    delta: float  # of the task's first figure, better above 0


@dataclass(frozen=True)
class Task:
    """One dataset under A and under B.

    Args:
        differences: a figure each, the one that stands for the task first.
        changed: the samples that were answered otherwise, the greatest loss first.
    """

    dataset: str
    a: str
    b: str
    differences: list[Difference]
    changed: list[Changed] = field(repr=False)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Comparison:
    """What could be compared, and of what could not (where, why)."""

    tasks: list[Task]
    refused: list[tuple[str, str]]
    alone: list[tuple[str, str]]


class _Refused(Exception):
    pass


def compare_runs(
    a: Path, b: Path, words_a: str | None = None, words_b: str | None = None
) -> Comparison:
    """B minus A on every task that both were asked alike.

    Args:
        a, b: runs, or directories of runs, of which the newest counts. The same one twice compares
            two of its methods.
        words_a, words_b: of each run only models and methods whose names contain them.

    Raises:
        ConfigError: nothing can be compared, several could be meant, or scipy is not installed.
        DataError: no run there, or one that is damaged.
    """
    folders = [latest_work_dir(path) for path in (a, b)]
    once = folders[0].resolve() == folders[1].resolve()
    if once and words_a == words_b:
        raise ConfigError(
            f"{a} is A and B: name two of its methods by --a and --b, or give another run."
        )
    read = read_run(folders[0])
    theirs = read if once else read_run(folders[1])
    # of both, so that what A and B differ in is part of their names
    labels = full_labels([*read, *theirs])
    cells_a, cells_b = chosen(read, words_a, "A", labels), chosen(theirs, words_b, "B", labels)
    pairs, alone = pair_cells(cells_a, cells_b)
    tasks, refused = [], []
    for left, right in pairs:
        names = labels[left.model], labels[right.model]
        try:
            tasks.append(_task(left, right, names))
        except _Refused as reason:
            both = dict.fromkeys((left.dataset, right.dataset))
            refused.append((f"{names[0]} and {names[1]} on {' and '.join(both)}", str(reason)))
    if not tasks:
        reasons = [f"{where}: {why}" for where, why in (*refused, *alone)]
        raise ConfigError("nothing can be compared.\nerror: " + "\nerror: ".join(reasons))
    return Comparison(tasks, refused, alone)


def _task(a: Cell, b: Cell, names: tuple[str, str]) -> Task:
    if reason := refusal(a, b):
        raise _Refused(reason)
    left, right = ({row.index: row for row in sample_rows(cell)} for cell in (a, b))
    both = sorted(i for i in left.keys() & right.keys() if not left[i].error and not right[i].error)
    _check_prompts(a, b, [(left[i], right[i]) for i in both])
    theirs = main_scores(b, right.values())
    figures = [name for name in main_scores(a, left.values()) if name in theirs]
    _check_scoring(figures, [(left[i], right[i]) for i in both])
    found: list[Difference] = []
    seen: list[Any] = []
    for name in figures:
        pairs = [
            (left[i].scores[name], right[i].scores[name])
            for i in both
            if name in left[i].scores and name in right[i].scores
        ]
        if pairs and pairs not in seen:  # accuracy and score of a needle are one figure
            seen.append(pairs)
            found.append(difference(name, *zip(*pairs, strict=True)))
    if not found:
        raise _Refused(
            "their results hold no figure sample by sample; run opencompass with "
            "--dump-eval-details True (the default), `-m eval -r`."
        )
    notes = cut_notes(a, b)
    if lost := len(left.keys() | right.keys()) - len(both):
        notes.append(f"{lost} samples are not in both, or failed in one, and are left out")
    changed = _changed(found[0].metric, [(left[i], right[i]) for i in both])
    return Task(a.dataset, *names, found, changed, notes)


def _check_prompts(a: Cell, b: Cell, pairs: Sequence[tuple[SampleRow, SampleRow]]) -> None:
    """Of one checkpoint the same prompt has the same tokens, where neither side cut it."""
    if _checkpoint(a) != _checkpoint(b):
        return
    for one, other in pairs:
        hashes = {row.record.get("prompt_sha256") for row in (one, other)} - {None}
        cut = any(row.record.get("n_cut") for row in (one, other))
        if len(hashes) > 1 and not cut:
            raise _Refused(
                f"sample {one.index} was read as other tokens ({one.record.get('n_tokens')} in A, "
                f"{other.record.get('n_tokens')} in B): another chat template or tokenizer."
            )


def _check_scoring(names: Sequence[str], pairs: Sequence[tuple[SampleRow, SampleRow]]) -> None:
    """The same answer to the same question scores the same under one rule."""
    for one, other in pairs:
        if one.reference != other.reference:
            raise _Refused(
                f"the scoring differs: sample {one.index} has other references, "
                f"{_brief(one.reference)} in A and {_brief(other.reference)} in B."
            )
        if one.prediction != other.prediction:
            continue
        for name in names:
            mine, theirs = one.scores.get(name), other.scores.get(name)
            # the likelihood is the model's, and no rule's
            if name in LOWER_IS_BETTER or mine is None or theirs is None:
                continue
            if abs(mine - theirs) > _SAME:
                raise _Refused(
                    f"the scoring differs: the same answer to sample {one.index} has {name} "
                    f"{mine:g} in A and {theirs:g} in B."
                )


def _changed(metric: str, pairs: Sequence[tuple[SampleRow, SampleRow]]) -> list[Changed]:
    """Losses first, then gains, then answers that differ in words alone."""
    sign = -1 if metric in LOWER_IS_BETTER else 1
    found = [
        Changed(a, b, sign * (b.scores.get(metric, 0.0) - a.scores.get(metric, 0.0)))
        for a, b in pairs
        if a.prediction != b.prediction
    ]
    return sorted(found, key=lambda one: (one.delta >= 0, -abs(one.delta), one.a.index))


def _checkpoint(cell: Cell) -> Any:
    settings: Mapping[str, Any] = cell.manifest.get("model", {}).get("settings") or {}
    return settings.get("checkpoint")


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
