"""How far a dataset is, while it runs: live in a terminal, else one line a minute."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from tqdm import tqdm

from reattention_eval.report.pace import Pace

EVERY = 60.0  # seconds


class LiveProgress:
    """Shown from `__enter__` to `__exit__`; `add` the records of samples as they finish."""

    def __init__(self, name: str, pace: Pace, log: logging.Logger) -> None:
        self._name, self._pace, self._log = name, pace, log
        self._said = time.monotonic()

    def __enter__(self) -> LiveProgress:
        # `disable=None`: only where stderr is a terminal
        self._bar = tqdm(
            total=self._pace.total, initial=self._pace.done, desc=self._name, disable=None,
            bar_format="{bar:10} {desc}{postfix}", dynamic_ncols=True,
        )  # fmt: skip
        self._show()
        return self

    def add(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Of samples that finished."""
        before = self._pace.done + self._pace.failed
        self._pace.add(records)
        self._bar.update(self._pace.done + self._pace.failed - before)
        self._show()
        if self._bar.disable and time.monotonic() - self._said >= EVERY:
            self._said = time.monotonic()
            self._log.info(f"{self._name}: {self._pace.words()}")

    def _show(self) -> None:
        self._bar.set_postfix_str(self._pace.words())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
