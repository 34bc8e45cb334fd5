"""`reattention-eval export`: a finished or running run in the formats of other tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reattention_eval.cli.console import FAILED, err, out, readable_errors, show_problems
from reattention_eval.errors import DataError

if TYPE_CHECKING:
    from reattention_eval.report.run import Cell

export = typer.Typer(help="Write a run in the formats of other tools.", no_args_is_help=True)

Run = Annotated[Path, typer.Argument(help="A run's directory, or the one that holds runs.")]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder to write to; RUN/export/... if left out.")
]


@export.command()
@readable_errors
def inspect(run: Run, folder: Out = None) -> None:
    """As logs of inspect_ai, one a model, method and task.

    `inspect view --log-dir FOLDER` then lists every sample with its prompt's head and tail, answer,
    reference and scores.
    """
    from reattention_eval.report.exported import exportable
    from reattention_eval.report.inspect_log import write_inspect_log
    from reattention_eval.report.predictions import Predicted
    from reattention_eval.report.run import latest_work_dir, read_run

    work_dir = latest_work_dir(run)
    folder = folder or work_dir / "export" / "inspect"
    cells = [cell for cell in read_run(work_dir) if cell.records or cell.predicted != Predicted()]
    _some(cells, work_dir)
    cells, refused = exportable(cells, work_dir)
    folder.mkdir(parents=True, exist_ok=True)
    for cell in cells:
        _say(str(write_inspect_log(cell, work_dir, folder).resolve()))
    _say(
        f"inspect view --log-dir {folder}   (pip install inspect-ai, in an environment of its own)"
    )
    _end(cells, refused)


@export.command(name="lm-eval")
@readable_errors
def lm_eval(run: Run, folder: Out = None) -> None:
    """In lm-evaluation-harness's results format.

    A folder a model with method, in it results_TIME.json and samples_TASK_TIME.jsonl.
    """
    from reattention_eval.report.exported import exportable
    from reattention_eval.report.lm_eval_results import write_lm_eval
    from reattention_eval.report.run import latest_work_dir, read_run

    work_dir = latest_work_dir(run)
    folder = folder or work_dir / "export" / "lm-eval"
    cells = [cell for cell in read_run(work_dir) if cell.result]
    _some(cells, work_dir)
    cells, refused = exportable(cells, work_dir)
    for model in dict.fromkeys(cell.model for cell in cells):
        own = [cell for cell in cells if cell.model == model]
        for path in write_lm_eval(own, work_dir, folder):
            _say(str(path.resolve()))
    _end(cells, refused)


def _some(cells: Sequence[object], work_dir: Path) -> None:
    if not cells:
        raise DataError(
            f"{work_dir} has no samples yet, or none that were scored; "
            f"`reattention-eval status {work_dir}` says how far it is."
        )


def _end(cells: Sequence[Cell], refused: Sequence[str]) -> None:
    """What was left out, and what is wrong with figures that were not; then the status is 1."""
    for sentence in refused:
        err.print(f"not exported: {sentence}", style="red", markup=False, soft_wrap=True)
    if any([bool(refused), show_problems(cells)]):
        raise typer.Exit(FAILED)


def _say(line: str) -> None:
    out.print(line, soft_wrap=True, markup=False)
