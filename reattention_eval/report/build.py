"""A run's tables, heat map, manifest and verdict, made from its files alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reattention_eval.errors import ConfigError
from reattention_eval.report.benchmarks import averages_csv, benchmark_grids, places
from reattention_eval.report.heatmap import draw_heatmap, needle_grid, trained_window
from reattention_eval.report.labels import model_name
from reattention_eval.report.needles import COSTS, MANY_DEPTHS, by_form, form, form_title
from reattention_eval.report.problems import find_problems
from reattention_eval.report.run import EXPECTED_FILE, Cell, read_run
from reattention_eval.report.tables import (
    NEVER,
    Grid,
    cell_length,
    csv_table,
    grid_of,
    grids,
    markdown,
    sample_count,
    selection_words,
)


@dataclass(frozen=True)
class Report:
    """What was written and what must be said about the run."""

    grids: dict[str, Grid]
    sentence: str
    problems: list[str]
    files: list[Path]
    notes: list[str]


def build_report(work_dir: Path, expected: Iterable[tuple[str, str]] | None = None) -> Report:
    """Read `work_dir` (one run of opencompass), write `work_dir/report/`, return what it says.

    Args:
        work_dir: holds predictions/, results/ and records/.
        expected: (model, dataset) abbreviations that must be there; noted for later calls.

    Raises:
        ConfigError: the report cannot be written there.
        DataError: a file of the run is damaged.
    """
    folder = work_dir / "report"
    try:
        return _build(work_dir, folder, expected)
    except OSError as error:
        raise ConfigError(
            f"the report cannot be written to {folder} ({error.strerror or error}); make the "
            "folder writable, or copy the run to one of your own and make its report there."
        ) from error


def _build(work_dir: Path, folder: Path, expected: Iterable[tuple[str, str]] | None) -> Report:
    folder.mkdir(parents=True, exist_ok=True)
    if expected is not None:
        expected = list(expected)
        _write(folder / EXPECTED_FILE, json.dumps({"cells": expected}, indent=1) + "\n")
    cells = read_run(work_dir, expected)
    grouped = places(cells)
    others = [cell for cell in cells if cell.dataset not in grouped]
    forms = by_form(others)
    tables = {**_tables_by_form(forms), **benchmark_grids(cells)}
    problems, said = find_problems(cells), [sentence(own) for own in forms.values()]
    if grouped or not cells:
        inside = [cell for cell in cells if cell.dataset in grouped]
        said.append(group_sentence(inside) if inside else sentence(cells))
    words = " ".join(said)
    notes = [*cut_note(cells), *never_note(cells)]
    files = [
        _write(folder / "table.csv", csv_table(cells)),
        _write(folder / "table.md", _page(tables, [words, *notes], problems)),
        _write(folder / "manifest.json", json.dumps(_manifest(cells), indent=1) + "\n"),
    ]
    if grouped:
        files.append(_write(folder / "averages.csv", averages_csv(cells)))
    drawn = {name: own for name, own in forms.items() if needle_grid(own, "accuracy")}
    try:
        for name, own in drawn.items():
            picture = f"heatmap-{name}.png" if len(drawn) > 1 else "heatmap.png"
            files += filter(None, [draw_heatmap(own, folder / picture)])
    except ImportError:
        notes.append('No heat map: matplotlib is absent, `pip install "reattention-eval[report]"`.')
    return Report(tables, words, problems, files, notes)


def _tables_by_form(forms: Mapping[str, Sequence[Cell]]) -> dict[str, Grid]:
    out: dict[str, Grid] = {}
    for name, own in forms.items():
        tables = grids(own)
        if name:
            tables |= {heading: grid_of(own, shown) for heading, shown in COSTS.items()}
        title = f"{form_title(name)}: " if name and (len(forms) > 1 or name == MANY_DEPTHS) else ""
        out |= {f"{title}{heading}": grid for heading, grid in tables.items()}
    return out


def sentence(cells: Sequence[Cell]) -> str:
    """One sentence that says what the reader of the tables is looking at."""
    lengths = sorted({n for n in map(cell_length, cells) if n})
    window = trained_window(cells)
    names = ", ".join(dict.fromkeys(model_name(c) for c in cells)) or "no model"
    counts = sorted({sample_count(c) for c in cells if sample_count(c)})
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}" if counts else "0"
    if not any(c.details and "depth" in c.details[0] for c in cells):
        return f"Each row is {names} under one long-context method, each column a dataset; n = {n}."
    beyond = [f"{length:,}" for length in lengths if window and length > window]
    reach = ""
    if beyond:
        columns = (
            f"columns from {beyond[0]} on read" if len(beyond) > 1 else f"{beyond[0]} column reads"
        )
        reach = (
            f"; the model was trained on windows of {window:,} tokens, so the "
            f"{columns} past what it has ever seen"
        )
    if any(form(cell) == MANY_DEPTHS for cell in cells):
        hidden = "with a fact at each of several depths of one real text, asked for one at a time"
        prompts = "questions a cell, depths x texts"
    else:
        hidden = "with one fact hidden at several depths of real text"
        prompts = "prompts a cell"
    return (
        f"Each row is {names} under one long-context method, each column a prompt length in tokens "
        f"{hidden}: accuracy is the share of facts repeated exactly (n = {n} {prompts}), answer "
        f"NLL how surprised the model is by the right answer{reach}."
    )


def group_sentence(cells: Sequence[Cell]) -> str:
    """The same for the tables of benchmarks with tasks in groups."""
    names = ", ".join(dict.fromkeys(model_name(cell) for cell in cells))
    return (
        f"In a benchmark's tables each row is {names} under one long-context method, each column a "
        "task, with n samples; an average that would lack a task is left out."
    )


def cut_note(cells: Sequence[Cell]) -> list[str]:
    """Says how many prompts lost their middle; nothing where none did."""
    cut = sum(1 for c in cells for r in c.records.values() if r.get("n_cut"))
    total = sum(len(c.records) for c in cells)
    return [f"{cut} of {total} prompts were longer than allowed and lost their middle."] * (cut > 0)


def never_note(cells: Sequence[Cell]) -> list[str]:
    """What the mark of cells in which no sample selected means; nothing where there is none."""
    if not any(selection_words([cell]) == NEVER for cell in cells):
        return []
    return [
        f'"{NEVER}": every prompt of the cell fitted into what the method attends to whole, so its '
        "figures are those of full attention in effect."
    ]


def _page(tables: dict[str, Grid], words: Sequence[str], problems: list[str]) -> str:
    parts = [line + "\n" for line in words]
    parts += [f"**{heading}**\n\n{markdown(grid)}" for heading, grid in tables.items()]
    if problems:
        parts.append("**Missing or failed**\n\n" + "".join(f"- {p}\n" for p in problems))
    return "\n".join(parts)


def _manifest(cells: Sequence[Cell]) -> dict[str, Any]:
    return {
        model: {c.dataset: c.manifest for c in cells if c.model == model}
        for model in dict.fromkeys(c.model for c in cells)
    }


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path
