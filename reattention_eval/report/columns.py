"""What tables call their columns: the length, and what else tells datasets of one length apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reattention_eval.report.frame import Frame

# of a dataset's facts those that are of its samples, or that only a run knows
_NO_QUESTION = ("abbr", "n", "fingerprint", "length")


def columns(frame: Frame, datasets: Sequence[str]) -> dict[str, str]:
    """Dataset abbreviation -> heading, in the order of lengths; the abbreviations themselves where
    a length is not known."""
    facts: dict[str, Mapping[str, Any]] = {dataset: {} for dataset in datasets}
    for row in frame.rows:  # a cell without manifest must not hide what its neighbours know
        for dataset in datasets:
            if dataset in row.cells and not facts[dataset].get("length"):
                facts[dataset] = row.cells[dataset].facts
    lengths = {dataset: int(facts[dataset].get("length") or 0) for dataset in datasets}
    if not all(lengths.values()):
        return {dataset: dataset for dataset in datasets}
    heads = {}
    for length, dataset in sorted((length, dataset) for dataset, length in lengths.items()):
        alike = [name for name in datasets if lengths[name] == length]
        apart = _apart({name: facts[name] for name in alike})
        words = f"{length:,}, {apart[dataset]}" if apart else dataset
        heads[dataset] = words if len(alike) > 1 else f"{length:,}"
    return heads


def _apart(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """By the first thing asked that all say and of which each has its own; empty where there is
    none. A dataset that never ran says less."""
    for key in next(iter(facts.values())):
        if key in _NO_QUESTION or not all(key in own for own in facts.values()):
            continue
        said = {name: _words(key, own[key]) for name, own in facts.items()}
        if len(set(said.values())) == len(said):
            return said
    return {}


def _words(key: str, value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} {key.removesuffix('s') if len(value) == 1 else key}"
    return f"{key}={value}"
