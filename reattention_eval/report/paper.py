"""Published figures beside ours: the difference where model and setting are the same."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import reattention_eval
from reattention_eval.errors import DataError
from reattention_eval.methods import default_settings
from reattention_eval.report.frame import TASKS, Figure, Frame
from reattention_eval.report.intervals import Interval
from reattention_eval.report.run import Cell
from reattention_eval.report.shown import Shown
from reattention_eval.report.tables import Grid, interval_words

HEADER = ["figure", "published", "how certain", "ours", "difference", "why none, or what differs"]
HEADING = "beside published figures"
# says that nothing has to be set for the figure
ANY = "any"


@dataclass(frozen=True)
class Published:
    """A row of results/paper/*.csv; `settings` None: not known, so nothing of ours is the same."""

    model: str
    method: str
    settings: Mapping[str, str] | None
    benchmark: str
    task: str
    tasks: int
    length: int | None
    metric: str
    value: float
    certainty: str
    source: str

    @property
    def what(self) -> tuple[str, str, str, int | None, str]:
        """What was measured, whatever the method."""
        return self.model, self.benchmark, self.task, self.length, self.metric


def published() -> list[Published]:
    """All figures that are known.

    Raises:
        DataError: the files are not there.
    """
    package = Path(reattention_eval.__file__).resolve().parent
    places = [package / "paper", package.parent / "results" / "paper"]
    for place in places:
        if files := sorted(place.glob("*.csv")):
            return [row for path in files for row in _read(path)]
    raise DataError(
        f"the published figures are neither in {places[0]} nor in {places[1]}; reinstall the "
        "package."
    )


def beside_paper(frame: Frame) -> dict[str, Grid]:
    """A table of what is published of the run's models and benchmarks, a row a method; empty for
    runs of which nothing is. What nobody published, or nobody ran, stays empty."""
    models = {row.model for row in frame.rows}
    benchmarks = {_about(cell).get("benchmark") for cell in frame.cells}
    known = [p for p in published() if p.model in models and p.benchmark in benchmarks]
    rows = [
        line for what in dict.fromkeys(p.what for p in known) for line in _of(frame, known, what)
    ]
    return {HEADING: (HEADER, rows)} if rows else {}


def _of(frame: Frame, known: Sequence[Published], what: tuple[Any, ...]) -> Iterator[list[str]]:
    """The published figures of one measure, each with ours, then ours of other methods."""
    own = [p for p in known if p.what == what]
    ours = [figure for figure in frame.figures if _measures(figure, own[0])]
    model, benchmark, task, length, _ = what
    words = f"{model}, {benchmark} {task}" + (f", {length:,} tokens" if length else "")
    for one in own:
        same: list[Figure | None] = [f for f in ours if _method(f) == one.method]
        for figure in same or [None]:
            yield [f"{words}: {one.method}", f"{one.value:g}", one.certainty, *_beside(one, figure)]
    for figure in ours:
        if _method(figure) not in {p.method for p in own}:
            yield [f"{words}: {figure.row.method}", "", "", _shown(figure), "", "not known"]


def _beside(one: Published, figure: Figure | None) -> list[str]:
    """Ours, the difference, and why there is none."""
    if figure is None:
        return ["", "", "not run"]
    differs = _differing(one, figure)
    if differs:
        return [_shown(figure), "", differs]
    away = figure.value - one.value
    around = figure.interval and Interval(
        figure.interval.low - one.value, figure.interval.high - one.value, figure.interval.kind
    )
    dtype = figure.cells[0].manifest.get("model", {}).get("dtype")
    told = "" if dtype == "float16" else f"published in float16, ours in {dtype}"
    return [_shown(figure), Shown(f"{away:+.2f}{interval_words(around, 2)}", away), told]


def _shown(figure: Figure) -> Shown:
    words = f"{figure.value:.2f}{interval_words(figure.interval, 2)} (n={figure.n})"
    return Shown(words, figure.value)


def _measures(figure: Figure, one: Published) -> bool:
    """Whether a figure is of the same model, task and length under the same rule of scoring."""
    about = figure.as_dict()
    of = TASKS if one.tasks > 1 and one.task == TASKS else ""
    same = (figure.row.model, about["benchmark"], figure.length, figure.metric, figure.average_of)
    if same != (one.model, one.benchmark, one.length, one.metric, of) or math.isnan(figure.value):
        return False
    return about["tasks"] == one.tasks and (bool(of) or about["task"] == one.task)


def _differing(one: Published, figure: Figure) -> str:
    """What of a figure's settings is not as it was published; empty where all is."""
    if one.settings is None:
        return "the published setting is not known"
    for cell in figure.cells:
        model, own = cell.manifest.get("model", {}), cell.manifest.get("method", {})
        ours = {**model.get("settings", {}), **own.get("settings", {})}
        for name, value in one.settings.items():
            if str(ours.get(name)) != value:
                return f"published with {name} {value}, ours {ours.get(name)}"
        usual = default_settings(one.method) if own.get("budget") else {}
        for name, value in own.get("settings", {}).items():
            if name not in one.settings and value != usual.get(name, value):
                return f"ours with {name} {value}, of which the published says nothing"
        if _about(cell).get("samples"):
            return f"ours are {_about(cell)['samples']} samples of a task, published: all"
        if _about(cell).get("chat_template"):
            return "published without a chat template"
    return ""


def _method(figure: Figure) -> str:
    return str(figure.cells[0].manifest.get("method", {}).get("name"))


def _about(cell: Cell) -> dict[str, Any]:
    about: dict[str, Any] = cell.manifest.get("dataset", {})
    return about


def _read(path: Path) -> Iterator[Published]:
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            told = row["settings"]
            pairs = [] if told == ANY else [pair.split("=", 1) for pair in told.split()]
            yield Published(
                row["model"],
                row["method"],
                {name: value for name, value in pairs} if told else None,
                row["benchmark"],
                row["task"],
                int(row["tasks"]),
                int(row["length"]) if row["length"] else None,
                row["metric"],
                float(row["value"]),
                row["certainty"],
                row["source"],
            )
