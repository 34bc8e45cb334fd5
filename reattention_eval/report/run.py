"""What a run left in its work directory: one `Cell` for each (model with method, dataset)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Any

from reattention_eval.errors import DataError
from reattention_eval.json_text import map_strings, printable, read_object
from reattention_eval.report.fields import place_of, wrong_manifest, wrong_result
from reattention_eval.report.predictions import Predicted, predicted
from reattention_eval.report.records import read_records
from reattention_eval.report.schema import migrated, refuse_newer
from reattention_eval.report.shown import visible
from reattention_eval.report.task_logs import why_none
from reattention_eval.report.told import untold

EXPECTED_FILE = "expected.json"


@dataclass(frozen=True)
class Cell:
    """One model and method on one dataset; an absent file shows as an empty dict."""

    model: str
    dataset: str
    predicted: Predicted
    result: dict[str, Any] = field(repr=False)
    manifest: dict[str, Any] = field(repr=False)
    records: dict[int, dict[str, Any]] = field(repr=False)
    run: str = ""  # the folder it was read from, where several runs are read together
    reason: str = ""  # why there is nothing of it, where its task said so
    beyond: int = 0  # records of samples that there are not, left out of `records`
    untold: str = ""  # why no manifest stands for its samples
    # what its manifest would say, as far as that is known from elsewhere
    told: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def has_predictions(self) -> bool:
        """Whether they are whole: what an evaluation needs, and a run does not make again."""
        return self.predicted.whole

    @property
    def about(self) -> dict[str, Any]:
        """Its manifest, or the parts that are known of one that never ran."""
        return self.manifest or self.told

    @property
    def facts(self) -> dict[str, Any]:
        """What is asked: benchmark, task, length ..."""
        facts: dict[str, Any] = self.about.get("dataset", {})
        return facts

    @cached_property
    def details(self) -> list[dict[str, Any]]:
        """The evaluator's per-sample entries; empty when they were not kept.

        OpenCompass's own evaluators number them: {"type": ..., "0": {...}, "1": {...}}.
        """
        details = self.result.get("details")
        if isinstance(details, dict):
            details = [entry for key, entry in details.items() if place_of(key) is not None]
        listed = details if isinstance(details, list) else []
        return [detail for detail in listed if isinstance(detail, dict)]


def latest_work_dir(path: Path) -> Path:
    """`path` itself if it is one run's directory, else its newest timestamped run.

    Raises:
        DataError: nothing under `path` looks like a run.
    """
    # a run that was ended early may have its records alone
    if any((path / room).is_dir() for room in ("predictions", "records", "configs")):
        return path
    runs = sorted(p for p in path.glob("*") if (p / "configs").is_dir()) if path.is_dir() else []
    if not runs:
        raise DataError(
            f"{path} holds no run of opencompass (no predictions/, records/ or configs/ in it, no "
            "configs/ one level below). Give the directory that `opencompass` printed as 'Current "
            "exp folder'."
        )
    return runs[-1]


def read_run(work_dir: Path, expected: Iterable[tuple[str, str]] | None = None) -> list[Cell]:
    """Every cell that was expected, in its order; without `expected`, all of `cell_names`.

    Raises:
        DataError: a file is damaged, or holds what no table can be made of.
    """
    noted = _noted(work_dir)
    pairs = list(expected) if expected is not None else _names(work_dir, noted)
    return _told([_read_cell(work_dir, model, dataset) for model, dataset in pairs], noted)


def _told(cells: list[Cell], noted: _Noted) -> list[Cell]:
    """Those without a manifest with what others of the same model say, and what was noted."""
    parts = dict(noted.models)
    for cell in cells:
        if cell.manifest:
            parts[cell.model] = {key: cell.manifest.get(key, {}) for key in ("model", "method")}
    return [
        cell if cell.manifest else replace(cell, told={
            **parts.get(cell.model, {}), "dataset": noted.datasets.get(cell.dataset, {})
        })
        for cell in cells
    ]  # fmt: skip


def cell_names(work_dir: Path) -> list[tuple[str, str]]:
    """(model, dataset) of every cell that the run was last begun for, and behind them those of
    which any file exists: another command may have put them there.

    Raises:
        DataError: the list of what it was begun for is damaged.
    """
    return _names(work_dir, _noted(work_dir))


def _names(work_dir: Path, noted: _Noted) -> list[tuple[str, str]]:
    names, found = list(noted.cells), _found(work_dir)
    known, wholes = set(noted.cells), {*noted.cells, *found}
    for model, dataset in found:
        part = re.search("_[0-9]+$", dataset)  # a partitioner leaves DATASET_0, DATASET_1, ...
        of_whole = part is not None and (model, dataset[: part.start()]) in wholes
        if (model, dataset) not in known and not of_whole:
            names.append((model, dataset))
    return names


@dataclass(frozen=True)
class _Noted:
    """What `note_expected` wrote; names as tables show them."""

    cells: list[tuple[str, str]]
    datasets: dict[str, Any]
    models: dict[str, Any]


def _noted(work_dir: Path) -> _Noted:
    path = work_dir / "report" / EXPECTED_FILE
    again = "Delete it: the tables are then made of every file that is there."
    noted = _load(path)
    pairs = noted.get("cells", [])
    if not isinstance(pairs, list) or not all(map(_is_pair, pairs)):
        raise DataError(f'{path} holds no list "cells" of pairs [model, dataset]. {again}')
    datasets, models = noted.get("datasets", {}), noted.get("models", {})
    parts = [*_values(models), *({"dataset": facts} for facts in _values(datasets))]
    for part in parts:
        reason = wrong_manifest(part) if isinstance(part, dict) else "a part is no object"
        if reason:
            raise DataError(f"{path} is damaged: {reason}. {again}")
    return _Noted(
        [(model, dataset) for model, dataset in pairs],
        map_strings(datasets, visible),
        map_strings(models, visible),
    )


def _values(found: Any) -> list[Any]:
    """Of an object; of anything else what no part can be."""
    return list(found.values()) if isinstance(found, dict) else [found]


def _is_pair(pair: Any) -> bool:
    """Two names, each of one folder or file."""
    return (
        isinstance(pair, list)
        and len(pair) == 2
        and all(isinstance(n, str) and n not in ("", ".", "..") for n in pair)
        and not any("/" in name or "\0" in name for name in pair)
    )


def _found(work_dir: Path) -> list[tuple[str, str]]:
    seen: dict[tuple[str, str], None] = {}
    for room, suffix in (("predictions", ".json"), ("results", ".json"), ("records", ".jsonl")):
        for path in sorted((work_dir / room).glob(f"*/*{suffix}")):
            seen[path.parent.name, path.name.removesuffix(suffix)] = None
    return sorted(seen, key=lambda names: [*map(_by_number, names)])


def _by_number(name: str) -> list[str | int]:
    """So that 32768 stands before 131072."""
    parts = re.split(r"([0-9]+)", name)  # every second one is a number
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def _read_cell(work_dir: Path, model: str, dataset: str) -> Cell:
    records: dict[int, dict[str, Any]] = {}
    manifest: dict[str, Any] = {}
    offset, beyond, missing = 0, 0, ""
    for name in written_names(work_dir, model, dataset):
        part = read_records(work_dir / "records" / model / f"{name}.jsonl")
        path = work_dir / "records" / model / f"{name}.manifest.json"
        own = _load(path, _wrong_manifest(path), "Delete it, predictions and result of its name,")
        own = migrated(own, path)
        if (part or own) and (why := untold(own, model, name)):
            missing, own = missing or why, {}
        manifest = _with_part(manifest, own)
        n = own.get("dataset", {}).get("n")
        kept = {i: record for i, record in part.items() if n is None or i < n}
        beyond += len(part) - len(kept)
        records.update({offset + i: record for i, record in kept.items()})
        # a part may lack the records of its last samples
        offset += max(kept, default=-1) + 1 if n is None else n
    if missing and manifest:  # of how many samples the others are nothing says
        manifest = _without_count(manifest)
    answers = predicted(work_dir, model, dataset, manifest.get("dataset", {}).get("n"))
    return Cell(
        model=visible(printable(model)),
        dataset=visible(printable(dataset)),
        predicted=answers,
        result=_load(work_dir / "results" / model / f"{dataset}.json", wrong_result),
        # names in tables and pictures hold nothing that a terminal or page would obey
        manifest=map_strings(manifest, visible),
        records=records,
        beyond=beyond,
        untold=map_strings(missing, visible),
        reason="" if records or answers != Predicted() else why_none(work_dir, model, dataset),
    )


def _wrong_manifest(path: Path) -> Callable[[dict[str, Any]], str | None]:
    def wrong(manifest: dict[str, Any]) -> str | None:
        refuse_newer(manifest, path)
        return wrong_manifest(manifest)

    return wrong


def _with_part(whole: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a dataset whose parts were run one by one counts the samples of all."""
    if not whole or not part:
        return whole or part
    counts = [manifest.get("dataset", {}).get("n") for manifest in (whole, part)]
    if None in counts:
        return _without_count(whole)
    return {**whole, "dataset": {**whole["dataset"], "n": sum(counts)}}


def _without_count(manifest: dict[str, Any]) -> dict[str, Any]:
    about = {key: value for key, value in manifest.get("dataset", {}).items() if key != "n"}
    return {**manifest, "dataset": about}


def written_names(work_dir: Path, model: str, dataset: str) -> list[str]:
    """Under which names its samples are: its own or, where a partitioner split it, DATASET_0,
    DATASET_1, ... Where both are there, those whose predictions an evaluation takes."""
    folder, answers = work_dir / "records" / model, work_dir / "predictions" / model
    parts = _part_names(folder, dataset)
    whole = any((folder / f"{dataset}.{end}").is_file() for end in ("jsonl", "manifest.json"))
    split = (answers / f"{dataset}_0.json").is_file()
    if parts and (not whole or (split and not (answers / f"{dataset}.json").is_file())):
        return parts
    return [dataset]


def _part_names(folder: Path, dataset: str) -> list[str]:
    files = folder.glob(f"{escape(dataset)}_*.*")
    ends = (".manifest.json", ".jsonl")
    names = {p.name.removesuffix(end) for p in files for end in ends if p.name.endswith(end)}
    placed = ((place_of(name.removeprefix(f"{dataset}_")), name) for name in names)
    return [name for _, name in sorted((at, name) for at, name in placed if at is not None)]


def _load(
    path: Path,
    wrong: Callable[[dict[str, Any]], str | None] = lambda _: None,
    first: str = "Delete it",
) -> dict[str, Any]:
    """A file's object, {} where there is none; `wrong` names what it must not hold, `first` what
    must go before a run makes it again."""
    again = f"{first} and run opencompass again with `-r` to make it anew."
    try:
        if not path.is_file():
            return {}
        data = read_object(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error}). {again}") from error
    if reason := wrong(data):
        raise DataError(f"{path} is damaged: {reason}. {again}")
    return data
