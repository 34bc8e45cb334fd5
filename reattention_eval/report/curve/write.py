"""What `reattention-eval curve` writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from reattention_eval.errors import DataError
from reattention_eval.report.curve.pictures import draw_panels
from reattention_eval.report.curve.points import curve_points, points_csv
from reattention_eval.report.heatmap import trained_window
from reattention_eval.report.joined import read_runs
from reattention_eval.report.run import Cell, latest_work_dir
from reattention_eval.report.selected import read_selected, write_selected


def draw_curve(work_dirs: Sequence[Path], folder: Path) -> list[Path]:
    """Write curve.csv and curve.png out of the runs' files, and selected.md with its pictures where
    there are failing samples that were looked at (`harness.selected`); what was written.

    Panels: needles found and answer NLL by form, RULER's tasks that go on past the window,
    perplexity by position.

    Raises:
        DataError: no run, a damaged file, or none with figures at a length.
        ImportError: matplotlib is absent (`pip install "reattention-eval[report]"`).
    """
    return draw_read_curve(read_runs(work_dirs), work_dirs, folder)


def draw_read_curve(cells: Iterable[Cell], work_dirs: Sequence[Path], folder: Path) -> list[Path]:
    """`draw_curve` of runs whose cells have been read (`read_runs`)."""
    cells = [cell for cell in cells if cell.result]
    points = curve_points(cells)
    if not points:
        raise DataError(
            f"{', '.join(map(str, work_dirs))}: no figures of needles, RULER or perplexity at any "
            "length; run configs/eval_needle_many_depths.py or configs/eval_real_tables.py."
        )
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "curve.csv"
    table.write_text(points_csv(points), encoding="utf-8")
    picture = folder / "curve.png"
    draw_panels(points, trained_window(cells), picture)
    samples = [s for work_dir in work_dirs for s in read_selected(latest_work_dir(work_dir))]
    return [table, picture, *write_selected(samples, folder)]
