"""A run's tables, heat map, manifest and verdict, made from its files alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reattention_eval.errors import ConfigError
from reattention_eval.json_text import finite
from reattention_eval.report.benchmarks import averages_csv, benchmark_grids
from reattention_eval.report.expected import note_expected
from reattention_eval.report.families import KEYS, draw_families, family_order, joined_cuts
from reattention_eval.report.frame import Frame, make_frame
from reattention_eval.report.heatmap import draw_heatmap, needle_grid, trained_window
from reattention_eval.report.joined import read_runs
from reattention_eval.report.labels import model_name
from reattention_eval.report.measures import cell_length, sample_count
from reattention_eval.report.needles import MANY_DEPTHS, MEMORY, TIMES, by_form, form, form_title
from reattention_eval.report.notes import reading_notes
from reattention_eval.report.page import write_page
from reattention_eval.report.paper import beside_paper
from reattention_eval.report.places import places
from reattention_eval.report.problems import find_problems
from reattention_eval.report.run import Cell, latest_work_dir, read_run
from reattention_eval.report.shown import Shown, visible
from reattention_eval.report.tables import (
    Grid,
    csv_table,
    grid_of,
    grids,
    markdown,
    markdown_text,
    plain,
)
from reattention_eval.whole_file import write_whole_text

if TYPE_CHECKING:
    import pandas

PAGE = "report.html"


@dataclass(frozen=True)
class Report:
    """What was written and what must be said about the run."""

    grids: dict[str, Grid]
    sentence: str
    problems: list[str]
    files: list[Path]
    notes: list[str]
    figures: Frame = field(repr=False)

    @property
    def frame(self) -> pandas.DataFrame:
        """Every figure, a row each: n, value, interval and what it is of (`Figure.as_dict`).

        Raises:
            ImportError: pandas is absent (`pip install "reattention-eval[report]"`).
        """
        import pandas

        return pandas.DataFrame([figure.as_dict() for figure in self.figures.figures])


def build_report(
    work_dir: Path, expected: Iterable[tuple[str, str]] | None = None, *, page: bool = False
) -> Report:
    """Read `work_dir` (one run of opencompass), write `work_dir/report/`, return what it says.

    Args:
        work_dir: holds predictions/, results/ and records/.
        expected: (model, dataset) abbreviations that must be there; noted for later calls.
        page: write report.html too, also where none is there yet.

    Raises:
        ConfigError: the report cannot be written there, or the page without `[report]`.
        DataError: a file of the run is damaged.
    """
    folder = work_dir / "report"
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if expected is not None:
            expected = list(expected)
            note_expected(work_dir, expected)
        return _build([work_dir], read_run(work_dir, expected), folder, page)


def build_joint_report(
    work_dirs: Sequence[Path],
    folder: Path,
    *,
    page: bool = False,
    by_family: bool = False,
    times: bool = True,
) -> Report:
    """The same of several runs read together (`read_runs`), into `folder`.

    by_family: rows in the order of their methods' families, with what the methods attended to and
    kept, and families.png instead of heat maps.
    times: seconds too; they are no method's where several processes shared a GPU.
    """
    cells = read_runs(work_dirs)
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return _build(
            work_dirs, joined_cuts(cells) if by_family else cells, folder, page, by_family, times
        )


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"the report cannot be written to {folder} ({error.strerror or error}); make room "
            "on its disk or the folder writable, or copy the run to one of your own and make its "
            "report there."
        ) from error


def _build(
    work_dirs: Sequence[Path],
    cells: list[Cell],
    folder: Path,
    page: bool,
    by_family: bool = False,
    times: bool = True,
) -> Report:
    frame = make_frame(cells)
    grouped = places(cells)
    others = [cell for cell in cells if cell.dataset not in grouped]
    forms = by_form(others)
    beside = {} if by_family else beside_paper(frame)
    costs = {**(TIMES if times else {}), **MEMORY, **(KEYS if by_family else {})}
    tables = {**_tables_by_form(frame, forms, costs), **benchmark_grids(frame), **beside}
    if by_family:
        tables = {heading: family_order(grid, frame) for heading, grid in tables.items()}
    tables = {visible(heading): plain(grid) for heading, grid in tables.items()}
    problems = list(map(visible, find_problems(cells)))
    said = [sentence(own) for own in forms.values()]
    if grouped or not cells:
        inside = [cell for cell in cells if cell.dataset in grouped]
        said.append(group_sentence(inside) if inside else sentence(cells))
    words = visible(" ".join(said))
    notes = reading_notes(frame)
    if not times:
        notes.append("Seconds are left out of these tables, as asked.")
    files = [
        _write(folder / "table.csv", csv_table(frame)),
        _write(folder / "table.md", _page(tables, [words, *notes], problems)),
        _write(folder / "manifest.json", json.dumps(finite(_manifest(cells)), indent=1) + "\n"),
    ]
    if grouped:
        files.append(_write(folder / "averages.csv", averages_csv(frame)))
    drawn = {name: own for name, own in forms.items() if needle_grid(own, "accuracy")}
    try:
        if by_family:
            files += draw_families(cells, folder)
            drawn = {}
        for name, own in drawn.items():
            picture = f"heatmap-{name}.png" if len(drawn) > 1 else "heatmap.png"
            files += filter(None, [draw_heatmap(frame, names_of(own), folder / picture)])
    except ImportError:
        notes.append('No pictures: matplotlib is absent, `pip install "reattention-eval[report]"`.')
    # a page that is there is made anew too: it would go on saying what an earlier report said
    if page or (folder / PAGE).exists():
        names = [latest_work_dir(path).resolve().name for path in work_dirs]
        written = write_page(folder / PAGE, names, frame, forms, tables, [*said, *notes], problems)
        files.append(written)
    for path in sorted({*_of_a_report(folder)} - {*files}):
        path.unlink()
    return Report(tables, words, problems, files, notes, frame)


def _of_a_report(folder: Path) -> Iterator[Path]:
    """What reports write where there is something to say of it, and an earlier one may have."""
    for name in ("averages.csv", "heatmap.png", "heatmap-*.png", "families.png", "at_length.png"):
        yield from folder.glob(name)


def names_of(cells: Sequence[Cell]) -> list[str]:
    """Their datasets, each once."""
    return list(dict.fromkeys(cell.dataset for cell in cells))


def _tables_by_form(
    frame: Frame,
    forms: Mapping[str, Sequence[Cell]],
    costs: Mapping[str, Callable[[Cell | None], Shown]],
) -> dict[str, Grid]:
    out: dict[str, Grid] = {}
    for name, own in forms.items():
        tables = grids(frame, names_of(own))
        if name:
            took = {h: grid_of(frame, names_of(own), shown) for h, shown in costs.items()}
            tables |= {h: (head, rows) for h, (head, rows) in took.items() if _says(rows)}
        title = f"{form_title(name)}: " if name and (len(forms) > 1 or name == MANY_DEPTHS) else ""
        out |= {f"{title}{heading}": grid for heading, grid in tables.items()}
    return out


def _says(rows: Sequence[Sequence[str]]) -> bool:
    """Whether any cell has something in it."""
    return any(word != "-" for row in rows for word in row[1:])


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


def _page(tables: dict[str, Grid], words: Sequence[str], problems: list[str]) -> str:
    parts = [f"{markdown_text(line)}\n" for line in words]
    parts += [f"**{markdown_text(name)}**\n\n{markdown(grid)}" for name, grid in tables.items()]
    if problems:
        listed = "".join(f"- {markdown_text(problem)}\n" for problem in problems)
        parts.append(f"**Missing or failed**\n\n{listed}")
    return "\n".join(parts)


def _manifest(cells: Sequence[Cell]) -> dict[str, Any]:
    return {
        model: {c.dataset: c.manifest for c in cells if c.model == model}
        for model in dict.fromkeys(c.model for c in cells)
    }


def _write(path: Path, text: str) -> Path:
    write_whole_text(path, text)
    return path
