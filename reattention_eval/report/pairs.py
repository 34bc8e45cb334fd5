"""Which cells of two runs may be compared sample by sample, and why the others may not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reattention_eval.errors import ConfigError
from reattention_eval.report.labels import method_labels, method_name, model_name
from reattention_eval.report.predictions import REMAKE
from reattention_eval.report.run import Cell
from reattention_eval.report.stale import stale

_LONGEST = 60
# of a model's settings those that change what is read of a prompt, or how much is answered
_READING = ("chat_template", "system", "stop_words", "meta_template")
_CUTS = ("max_seq_len", "max_prompt_tokens")
_RULES = {"both": {"official", "opencompass"}}

Pair = tuple[Cell, Cell]


def chosen(
    cells: Sequence[Cell], words: str | None, name: str, labels: Mapping[str, str]
) -> list[Cell]:
    """The cells whose model and method contain `words`, whatever the case; on a dataset where
    `words` are all of a method's label (`full` beside `native_full`), or else of its name
    (`reattention` beside `reattention_plus`), that method alone.

    Args:
        labels: `full_labels`.

    Raises:
        ConfigError: none does; the sentence lists those that there are.
    """
    if not words:
        return list(cells)
    asked = words.lower()
    found = [cell for cell in cells if asked in f"{cell.model} {labels[cell.model]}".lower()]
    if not found:
        there = dict.fromkeys(labels[cell.model] for cell in cells)
        raise ConfigError(
            f"{name} has no model and method {words!r}; there are: {'; '.join(there) or 'none'}."
        )

    def close(cell: Cell) -> int:
        label = labels[cell.model].lower()
        if asked in (label, label.partition(": ")[2]):
            return 2
        return int(asked == str(method_name(cell)).lower())

    closest: dict[str, int] = {}
    for cell in found:
        closest[cell.dataset] = max(close(cell), closest.get(cell.dataset, 0))
    return [cell for cell in found if close(cell) == closest[cell.dataset]]


def full_labels(cells: Sequence[Cell]) -> dict[str, str]:
    """Model abbreviation -> model, method and budget."""
    labels = method_labels(cells)
    return {cell.model: f"{model_name(cell)}: {labels[cell.model]}" for cell in cells}


def pair_cells(a: Sequence[Cell], b: Sequence[Cell]) -> tuple[list[Pair], list[tuple[str, str]]]:
    """Cells that belong together, and what of A or B has no counterpart (where, why).

    On each task: the same model and method on both sides; else the one that each side has, of the
    same checkpoint where there are several.

    Raises:
        ConfigError: several could be meant.
    """
    pairs: list[Pair] = []
    alone: list[tuple[str, str]] = []
    both = {cell.dataset for cell in a} & {cell.dataset for cell in b}
    # a dataset's name says all of how it was asked; under another name it may be the same task
    there = {_task(cell, both): cell.dataset for cell in (*a, *b)}
    for task, dataset in there.items():
        left, right = ([cell for cell in side if _task(cell, both) == task] for side in (a, b))
        if not left or not right:
            missing = "A" if not left else "B"
            alone.append((dataset, f"{missing} has no such task."))
            continue
        found = list(_matched(left, right))
        pairs += found
        used = {id(cell) for pair in found for cell in pair}
        alone += [
            (f"{cell.model} on {dataset}", f"{other} has nothing to hold against it.")
            for side, other in ((left, "B"), (right, "A"))
            for cell in side
            if id(cell) not in used
        ]
    return pairs, alone


def refusal(a: Cell, b: Cell) -> str | None:
    """Why two cells may not be compared, naming what differs; None if they may."""
    for name, cell in (("A", a), ("B", b)):
        if not cell.manifest.get("dataset"):
            return f"{name} has no manifest, so nothing says what was asked."
    one, other = a.manifest["dataset"], b.manifest["dataset"]
    known = [key for key in (*one, *other) if key not in ("abbr", "scoring", "fingerprint")]
    differing = [_said(k, one.get(k), other.get(k)) for k in known if one.get(k) != other.get(k)]
    if one.get("fingerprint") != other.get("fingerprint"):
        differing.append(
            _said("the prompts' fingerprint", _head(one), _head(other)),
        )
    named = [str(facts.get("scoring")) for facts in (one, other)]
    rules = [_RULES.get(name, {name}) for name in named]
    if not rules[0] & rules[1]:
        differing.append(_said("scoring", one.get("scoring"), other.get("scoring")))
    mine, theirs = _settings(a), _settings(b)
    reading = [key for key in _READING if key not in one]  # what a dataset says of its own counts
    differing += [_said(k, mine.get(k), theirs.get(k)) for k in reading if _other(mine, theirs, k)]
    if differing:
        return "they were not asked alike: " + "; ".join(dict.fromkeys(differing)) + "."
    for name, cell in (("A", a), ("B", b)):
        done, n = len(cell.records), cell.manifest["dataset"].get("n")
        if not cell.result and cell.predicted.wrong:
            return f"{name}'s predictions file {cell.predicted.wrong}; {REMAKE}"
        if not cell.result and not cell.has_predictions and n and done < n:
            return f"{name} is unfinished, {done} of {n} samples are done; go on with it (`-r`)."
        if not cell.result:
            return f"{name} has no result; score it (`opencompass ... -m eval -r`), then compare."
        if told := stale(cell):
            return f"{name}: {told}"
    return None


def cut_notes(a: Cell, b: Cell) -> list[str]:
    """Where one side may read less of the same prompts than the other."""
    mine, theirs = _settings(a), _settings(b)
    return [
        _said(f"the model's {key}", mine.get(key), theirs.get(key))
        for key in _CUTS
        if _other(mine, theirs, key)
    ]


def _matched(left: Sequence[Cell], right: Sequence[Cell]) -> Iterator[Pair]:
    same = {cell.model: cell for cell in right}
    if len(left) == len(right) == 1:
        yield left[0], right[0]
        return
    for cell in left:
        if cell.model in same:
            yield cell, same[cell.model]
    names = {cell.model for cell in left} & set(same)
    rest = [[cell for cell in side if cell.model not in names] for side in (left, right)]
    for checkpoint in dict.fromkeys(model_name(cell) for side in rest for cell in side):
        mine, theirs = ([c for c in side if model_name(c) == checkpoint] for side in rest)
        if len(mine) == len(theirs) == 1:
            yield mine[0], theirs[0]
        elif mine and theirs:
            labels = full_labels([*mine, *theirs])
            raise ConfigError(
                f"on {mine[0].dataset} A has {_listed(labels, mine)}, and B has "
                f"{_listed(labels, theirs)}: choose one of each by --a and --b."
            )


def _listed(labels: dict[str, str], cells: Sequence[Cell]) -> str:
    return " and ".join(labels[cell.model] for cell in cells)


def _task(cell: Cell, known: set[str]) -> str:
    """What stands for the dataset in both runs, also where it was asked otherwise."""
    if cell.dataset in known:
        return cell.dataset
    facts = cell.manifest.get("dataset", {})
    names = [facts.get(key) for key in ("benchmark", "task", "length")]
    return repr(names) if all(names) else cell.dataset


def _settings(cell: Cell) -> dict[str, Any]:
    settings = cell.manifest.get("model", {}).get("settings")
    return settings if isinstance(settings, dict) else {}


def _other(mine: dict[str, Any], theirs: dict[str, Any], key: str) -> bool:
    return key in mine and key in theirs and mine[key] != theirs[key]


def _head(facts: dict[str, Any]) -> str:
    return str(facts.get("fingerprint"))[:12]


def _said(name: str, mine: Any, theirs: Any) -> str:
    return f"{name} is {_short(mine)} in A and {_short(theirs)} in B"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
