"""What every command prints with, and how errors reach the user."""

from __future__ import annotations

import functools
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reattention_eval.errors import ReAttentionError
from reattention_eval.report import Report
from reattention_eval.report.problems import find_problems
from reattention_eval.report.run import Cell
from reattention_eval.report.shown import Shown
from reattention_eval.report.tables import Grid

P = ParamSpec("P")
R = TypeVar("R")

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
FAILED, MISUSED = 1, 2
FILES_CURE = "check the path, its permissions and the room on its disk."


def readable_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Our own errors, and files that refuse, end the command with one sentence and status 2."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        _open_streams()
        _spell_out()
        try:
            return command(*args, **kwargs)
        except ReAttentionError as error:
            reason = str(error)
        except BrokenPipeError:
            raise  # `| head` has read enough
        except OSError as error:
            reason = f"{error.strerror or error}: {error.filename or 'a file'}; " + FILES_CURE
        err.print(f"error: {reason}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(MISUSED) from None

    return wrapped


def _open_streams() -> None:
    """Python has None where a command was started without one, as `<&-` does."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (until the command ends)


def _spell_out() -> None:
    """What the terminal's encoding lacks is spelled out: a file's name may hold anything."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def show_report(report: Report) -> None:
    """Tables, the sentence that explains them, files and problems."""
    turned = False
    for heading, grid in report.grids.items():
        out.print(heading, style="bold", markup=False)
        header, rows = fitting = _fitting(grid, out.width)
        turned |= fitting is not grid
        table = Table()
        for i, column in enumerate(header):
            table.add_column(Text(column), justify="right" if i else "left", overflow="fold")
        for row in rows:
            table.add_row(*map(_cell, row))
        out.print(table)
    out.print(report.sentence, soft_wrap=True, markup=False)
    notes = ["Of tables too wide for this terminal the columns stand as rows."] * turned
    for note in [*report.notes, *notes]:
        out.print(note, soft_wrap=True, markup=False)
    out.print()
    for path in report.files:
        out.print(str(path.resolve()), soft_wrap=True, markup=False)
    for problem in report.problems:
        err.print(f"problem: {problem}", style="red", soft_wrap=True, markup=False)


def show_problems(cells: Sequence[Cell]) -> bool:
    """Says what is wrong with the cells that have figures, as a report of them would; whether
    anything is."""
    scored = [cell for cell in cells if cell.result]
    problems = find_problems(scored) if scored else []
    for problem in problems:
        err.print(f"problem: {problem}", style="red", soft_wrap=True, markup=False)
    return bool(problems)


def _fitting(grid: Grid, width: int) -> Grid:
    """The grid, or its columns as rows where only so it is not wider than the terminal."""
    header, rows = grid
    turned = [list(column) for column in zip(header, *rows, strict=True)]
    other: Grid = ["", *turned[0][1:]], turned[1:]
    return other if _width(grid) > width and _width(other) < _width(grid) else grid


def _width(grid: Grid) -> int:
    """Of a table that breaks no word."""
    columns = zip(grid[0], *grid[1], strict=True)
    return 1 + sum(3 + max(map(len, column)) for column in columns)


# what stands in the place of a figure
_STYLES = {"failed": "bold red", "missing": "dim", "unfinished": "dim"}


def _cell(word: str) -> Text:
    """Text, never markup: a name may hold anything."""
    if not isinstance(word, Shown):
        return Text(word)
    return Text(word, style="bold" if word.best else _STYLES.get(word.state, ""))
