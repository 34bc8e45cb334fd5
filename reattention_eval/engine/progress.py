"""A progress bar for prompts long enough to wait for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

OnProgress = Callable[[int], object]  # tokens of the prompt that are read -> whether to end there
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


class Pace:
    """Keeps the host from running ahead of a GPU by more than one forward, so that what is told of
    the tokens read is true but for that."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before: torch.Event | None = None

    def step(self) -> None:
        """A forward was given to the device."""
        if self._device.type != "cuda":
            return
        if self._before is not None:
            self._before.synchronize()
        self._before = torch.cuda.current_stream(self._device).record_event()
