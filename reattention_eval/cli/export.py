"""`reattention-eval export`: a finished or running run in the formats of other tools."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from reattention_eval.cli.console import out, readable_errors
from reattention_eval.errors import DataError

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
    from reattention_eval.report.inspect_log import write_inspect_log
    from reattention_eval.report.run import latest_work_dir, read_run

    work_dir = latest_work_dir(run)
    folder = folder or work_dir / "export" / "inspect"
    cells = [cell for cell in read_run(work_dir) if cell.records or cell.has_predictions]
    _some(cells, work_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with _readable():
        for cell in cells:
            _say(str(write_inspect_log(cell, work_dir, folder).resolve()))
    _say(
        f"inspect view --log-dir {folder}   (pip install inspect-ai, in an environment of its own)"
    )


@export.command(name="lm-eval")
@readable_errors
def lm_eval(run: Run, folder: Out = None) -> None:
    """In lm-evaluation-harness's results format.

    A folder a model with method, in it results_TIME.json and samples_TASK_TIME.jsonl.
    """
    from reattention_eval.report.lm_eval_results import write_lm_eval
    from reattention_eval.report.run import latest_work_dir, read_run

    work_dir = latest_work_dir(run)
    folder = folder or work_dir / "export" / "lm-eval"
    cells = [cell for cell in read_run(work_dir) if cell.result]
    _some(cells, work_dir)
    with _readable():
        for model in dict.fromkeys(cell.model for cell in cells):
            own = [cell for cell in cells if cell.model == model]
            for path in write_lm_eval(own, work_dir, folder):
                _say(str(path.resolve()))


def _some(cells: Sequence[object], work_dir: Path) -> None:
    if not cells:
        raise DataError(
            f"{work_dir} has no samples yet, or none that were scored; "
            f"`reattention-eval status {work_dir}` says how far it is."
        )


@contextmanager
def _readable() -> Iterator[None]:
    """A predictions file that is damaged, in one sentence."""
    try:
        yield
    except ValueError as error:
        raise DataError(
            f"a predictions file is damaged ({error}); delete it and run opencompass with `-r`."
        ) from error


def _say(line: str) -> None:
    out.print(line, soft_wrap=True, markup=False)
