"""How far the reading of a long text is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn

from reattention_eval.cli.console import err
from reattention_eval.machine_memory import GIB

if TYPE_CHECKING:
    import torch

LINE_SECONDS = 10.0
SPEED_SECONDS = 30.0  # over which the speed is taken


class Reading:
    """Of `total` tokens, `done` of which were there before."""

    def __init__(self, total: int, done: int, device: torch.device) -> None:
        self._total, self._device = total, device
        self._first = self._read = done
        self._began = time.monotonic()
        self._past = deque([(self._began, done)])
        self._said = self._began
        self._bar: Progress | None = None
        if err.is_terminal:
            columns = TextColumn("reading"), BarColumn(), TextColumn("{task.description}")
            self._bar = Progress(*columns, console=err, transient=True)
            self._task = self._bar.add_task(self._line(), total=total, completed=done)

    def __enter__(self) -> Reading:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def at(self, read: int) -> None:
        """So many tokens are read."""
        now, self._read = time.monotonic(), read
        self._past.append((now, read))
        while len(self._past) > 2 and now - self._past[0][0] > SPEED_SECONDS:
            self._past.popleft()
        if self._bar:
            self._bar.update(self._task, completed=read, description=self._line())
        elif now - self._said >= LINE_SECONDS:
            self._said = now
            err.print(f"reading: {self._line()}", markup=False, soft_wrap=True)

    def summary(self) -> str:
        """What was read in this process, how fast, and what it took."""
        seconds = time.monotonic() - self._began
        new = self._read - self._first
        return (
            f"{new:,} tokens in {seconds:.1f} s ({new / max(seconds, 1e-9):,.0f} tokens/s), "
            f"{self._memory()}"
        )

    def _line(self) -> str:
        (then, before), (now, read) = self._past[0], self._past[-1]
        line = f"{self._read:,} of {self._total:,} tokens"
        if now > then and read > before:
            speed = (read - before) / (now - then)
            line += f", {speed:,.0f} tokens/s, {_span((self._total - read) / speed)} left"
        return f"{line}, {self._memory()}"

    def _memory(self) -> str:
        from reattention_eval.engine.stats import peak_bytes

        return f"{peak_bytes(self._device) / GIB:.1f} GiB"


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
