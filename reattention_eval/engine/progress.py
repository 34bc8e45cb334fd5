"""A progress bar for prompts long enough to wait for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LONG_PROMPT_CHUNKS = 16


@contextmanager
def prompt_progress(tokens: int, chunk: int) -> Iterator[Callable[[int], None]]:
    """Yields a function that is told the tokens read; silent where nobody watches a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal or tokens < LONG_PROMPT_CHUNKS * chunk:
        yield lambda count: None
        return
    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("reading", total=tokens)
        yield lambda count: progress.advance(task, count)
