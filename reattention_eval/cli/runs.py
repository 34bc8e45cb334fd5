"""The commands that hold runs against each other and follow them, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reattention_eval.cli.console import FAILED, readable_errors


@readable_errors
def compare(
    a: Annotated[Path, typer.Argument(help="A run's directory, or one that holds runs: A.")],
    b: Annotated[Path, typer.Argument(help="Another, or the same one again: B.")],
    only_a: Annotated[
        str | None,
        typer.Option("--a", help="Of A only models and methods that contain this: `full`."),
    ] = None,
    only_b: Annotated[str | None, typer.Option("--b", help="The same of B.")] = None,
    samples: Annotated[
        int, typer.Option(help="Changed answers that are shown of each task.", min=0)
    ] = 5,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything, and all changed answers, here.")
    ] = None,
) -> None:
    """Two runs against each other, sample by sample: differences, and the answers that changed.

    B minus A with 95 % intervals, wins and losses, and McNemar's test. Runs of other prompts or
    another scoring are refused, naming what differs. Two methods of one run: `compare RUN RUN --a
    full --b reattention`.
    """
    from reattention_eval.cli.compare import show_comparison

    if not show_comparison((a, b), (only_a, only_b), samples, json_file):
        raise typer.Exit(FAILED)


@readable_errors
def status(
    run: Annotated[Path, typer.Argument(help="A run's directory, or one that holds runs.")],
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on for as long as anything of it runs.")
    ] = False,
    every: Annotated[float, typer.Option(help="Seconds between looks, with --watch.", min=1)] = 60,
) -> None:
    """How far a run is, and how fast, also while it runs elsewhere.

    From its files, on any machine that sees them: of each task the samples done, tokens a second,
    running score, expected end and memory, and where it runs (a process, a job of SLURM's).
    """
    from reattention_eval.cli.status import show_status
    from reattention_eval.report import latest_work_dir

    show_status(latest_work_dir(run), every if watch else None)
