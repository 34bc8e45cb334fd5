"""Methods by family: rows of one family under each other, and a plot with a column for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from reattention_eval.errors import ConfigError
from reattention_eval.machine_memory import GIB
from reattention_eval.methods import list_methods, method_class
from reattention_eval.methods.base import FAMILIES
from reattention_eval.report.at_length import draw_at_length
from reattention_eval.report.curve import curve_points, draw_grid
from reattention_eval.report.frame import Frame
from reattention_eval.report.heatmap import trained_window
from reattention_eval.report.labels import method_name, model_name
from reattention_eval.report.measures import effort
from reattention_eval.report.run import Cell
from reattention_eval.report.shown import Shown
from reattention_eval.report.tables import Grid

ELSE = "other methods"


def family(cell: Cell) -> str:
    """Of its method, as the manifest says it (`reattention_eval.methods.base`); one of an earlier
    version does not, and the method of that name does."""
    said, name = cell.about.get("method", {}).get("family"), str(method_name(cell))
    if not said and name in list_methods():
        with suppress(ConfigError):  # of an installed package that is broken
            said = method_class(name).family
    return str(said or ELSE)


def joined_cuts(cells: Sequence[Cell]) -> list[Cell]:
    """The same cells; a method whose prompts are whole here and cut there is one row.

    What a cut changes is the model's settings, and so the name that rows go by. Rows that both have
    a dataset stay two.
    """
    known: dict[str, list[str]] = {}
    datasets: dict[str, set[str]] = {}
    for cell in cells:
        datasets.setdefault(cell.model, set()).add(cell.dataset)
        if cell.about.get("method"):
            own = cell.about.get("model", {}), cell.about["method"]
            settings = {**own[0].get("settings", {}), "max_prompt_tokens": None}
            key = repr((model_name(cell), settings, own[1].get("name"), own[1].get("settings")))
            if cell.model not in known.setdefault(key, []):
                known[key].append(cell.model)
    name: dict[str, str] = {}
    for models in known.values():
        first, *others = models
        for other in others:
            if not datasets[other] & datasets[first]:
                datasets[first] |= datasets[other]
                name[other] = first
    return [replace(cell, model=name.get(cell.model, cell.model)) for cell in cells]


def family_order(grid: Grid, frame: Frame) -> Grid:
    """The grid's rows family by family, each below a line with the family's name."""
    header, rows = grid
    of_title = {
        title: family(cell)
        for row in frame.rows
        for cell in list(row.cells.values())[:1]
        for title in (row.method, f"{row.model}: {row.method}")
    }
    by_family: dict[str, list[Sequence[str]]] = {name: [] for name in (*FAMILIES, ELSE)}
    for own in rows:
        title = next(
            (t for t in (str(own[0]), str(own[0]).rpartition(" (")[0]) if t in of_title), ""
        )
        by_family.setdefault(of_title.get(title, ELSE), []).append(own)
    out: list[Sequence[str]] = []
    for name, several in by_family.items():
        if several:
            out += [[Shown(name, best=True), *[Shown("")] * (len(header) - 1)], *several]
    return header, out


def _mean(name: str, unit: float, digits: int, cell: Cell | None) -> Shown:
    value = effort(cell)[name] if cell is not None else float("nan")
    return Shown("-") if value != value else Shown(f"{value / unit:,.{digits}f}", value)


# what a method looked at and kept, by heading
KEYS: dict[str, Callable[[Cell | None], Shown]] = {
    "keys attended in a layer behind the prompt, mean": partial(_mean, "decode_view", 1, 0),
    "keys kept in a layer at the end, mean": partial(_mean, "keys_kept", 1, 0),
    "bytes of keys and values at the end, GiB": partial(_mean, "cache_bytes", GIB, 3),
}


def draw_families(cells: Sequence[Cell], folder: Path) -> list[Path]:
    """Score against length, a row a figure and a column a family (families.png), and all methods
    side by side at one length (at_length.png); what was drawn.

    The methods of the first family (full attention) stand in every column, in grey.

    Raises:
        ImportError: matplotlib is absent (`pip install "reattention-eval[report]"`).
    """
    cells = [cell for cell in cells if cell.result]
    points = curve_points(cells)
    if not points:
        return []
    families = {cell.model: family(cell) for cell in cells}
    order = [*FAMILIES, *sorted(set(families.values()) - {*FAMILIES})]
    of = lambda p: families[p.source]  # noqa: E731
    draw_grid(points, of, order, trained_window(cells), folder / "families.png")
    beside = draw_at_length(points, of, order, folder / "at_length.png")
    return [folder / "families.png", *filter(None, [beside])]
