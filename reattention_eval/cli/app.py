"""The commands and their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reattention_eval.cli.console import FAILED, out, readable_errors, show_report

app = typer.Typer(
    name="reattention-eval",
    help="Long-context methods on real models, through OpenCompass.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


@app.callback()
def _root() -> None:
    """Long-context methods on real models, through OpenCompass."""


@app.command()
@readable_errors
def demo(
    model: Annotated[
        str | None, typer.Option(help="Folder or hub id of a checkpoint, not the embedded one.")
    ] = None,
    lengths: Annotated[str | None, typer.Option(help="Prompt lengths, e.g. 6144,12288.")] = None,
    depths: Annotated[str | None, typer.Option(help="Depths in percent, e.g. 10,50,90.")] = None,
    repeats: Annotated[int | None, typer.Option(help="Prompts a length and depth.", min=1)] = None,
    methods: Annotated[str | None, typer.Option(help="Methods, e.g. full,reattention.")] = None,
    work_dir: Annotated[Path, typer.Option(help="Where runs are put.")] = Path("outputs/demo"),
) -> None:
    """Needle in a haystack inside and beyond the embedded model's window, three methods."""
    from reattention_eval.cli.demo import run_demo

    choices = {
        "MODEL": model, "LENGTHS": lengths, "DEPTHS": depths,
        "REPEATS": None if repeats is None else str(repeats), "METHODS": methods,
    }  # fmt: skip
    status = run_demo({key: value for key, value in choices.items() if value}, work_dir)
    raise typer.Exit(status)


@app.command()
@readable_errors
def prepare(
    what: Annotated[str, typer.Argument(help="What to fetch; `demo`: the model and the essays.")],
) -> None:
    """Fetch what evaluations need, once; afterwards nothing touches the network."""
    from reattention_eval.cli.prepare import prepare_named

    prepare_named(what)


@app.command()
@readable_errors
def methods() -> None:
    """The methods that configurations and `--methods` can name."""
    from reattention_eval.cli.tables import methods_table

    out.print(methods_table())


@app.command()
@readable_errors
def doctor() -> None:
    """Say what this machine has, what is missing, and the cure."""
    from reattention_eval.cli.doctor import examine

    if not examine():
        raise typer.Exit(FAILED)


@app.command()
@readable_errors
def report(
    work_dir: Annotated[
        Path, typer.Argument(help="A run's directory, or the one that holds runs.")
    ],
) -> None:
    """Make a run's tables and heat map again, from its files."""
    from reattention_eval.report import build_report, latest_work_dir

    made = build_report(latest_work_dir(work_dir))
    show_report(made)
    if made.problems:
        raise typer.Exit(FAILED)
