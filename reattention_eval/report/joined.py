"""Several runs read as one: what was asked alike is there once, what was not stays apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reattention_eval.errors import DataError
from reattention_eval.report.run import Cell, latest_work_dir, read_run


def read_runs(work_dirs: Sequence[Path]) -> list[Cell]:
    """The cells of all runs. Of the same prompts under the same settings, the cell that holds most;
    of two that hold the same, the later run's. No two are averaged.

    Raises:
        DataError: no run there, or one that is damaged.
    """
    folders = [latest_work_dir(path) for path in work_dirs]
    names = _names(folders)
    found: dict[Any, Cell] = {}
    for folder, name in zip(folders, names, strict=True):
        for cell in read_run(folder):
            named = replace(cell, run=name if len(folders) > 1 else "")
            key = _identity(cell)
            if key not in found or _held(named) >= _held(found[key]):
                found[key] = named
    known = {(key[0], key[1]) for key, cell in found.items() if cell.manifest}
    # without a manifest nothing was run: another run has it, or nobody
    return [cell for key, cell in found.items() if cell.manifest or key[:2] not in known]


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, with as much before them as tells them apart."""
    whole = [folder.resolve() for folder in folders]
    if len(set(whole)) < len(whole):
        twice = next(path for path in whole if whole.count(path) > 1)
        raise DataError(f"{twice} was given twice; name each run once.")
    for parts in range(1, max(len(path.parts) for path in whole) + 1):
        names = ["/".join(path.parts[-parts:]) for path in whole]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in whole]


def _identity(cell: Cell) -> tuple[str, str, str]:
    """Model, dataset, and all that the manifest says of what was asked."""
    about = {key: v for key, v in cell.manifest.get("dataset", {}).items() if key != "n"}
    own = cell.manifest.get("model", {}).get("fingerprint")
    return cell.model, cell.dataset, repr((own, sorted(about.items()))) if about else ""


def _held(cell: Cell) -> tuple[bool, bool, int]:
    """How much of a cell is there."""
    return bool(cell.result), cell.has_predictions, len(cell.records)
