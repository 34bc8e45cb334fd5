"""How far transfers are: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

Say = Callable[[str], None]
# a transfer's name, the bytes that are there, all bytes if known -> a context that gives what
# further bytes are told to; a transfer that goes on after a break is shown again
Show = Callable[[str, int, int | None], AbstractContextManager[Callable[[int], None]]]


@contextmanager
def transfer_progress(
    name: str, have: int, total: int | None, wanted: bool, say: Say
) -> Iterator[Callable[[int], None]]:
    """A bar that the yielded function moves by bytes; one line without a terminal."""
    if not (wanted and sys.stderr.isatty()):
        size = f" ({total / 1e6:.1f} MB)" if total else ""
        say(f"downloading {name}{size}" + (f", going on at {have / 1e6:.1f} MB" if have else ""))
        yield lambda n: None
        return
    with _bar() as bar:
        task = bar.add_task(name, total=total, completed=have)
        yield lambda n: bar.advance(task, n)


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


class Stopped(Exception):
    """A transfer ended because another of its group failed, or its user left."""


class JointProgress:
    """One bar, or one line a part, for transfers that run side by side in threads."""

    def __init__(self, name: str, sizes: dict[str, int], wanted: bool, say: Say) -> None:
        self._name, self._sizes, self._say = name, sizes, say
        self._have: dict[str, int] = {}
        self._told: set[str] = set()
        self._lock = Lock()
        self._stopped = False
        self._bar: Progress | None = None
        if wanted and sys.stderr.isatty():
            self._bar = _bar()
            self._task = self._bar.add_task(name, total=sum(sizes.values()))

    def __enter__(self) -> JointProgress:
        if self._bar:
            self._bar.start()
        else:
            total = sum(self._sizes.values())
            self._say(f"downloading {self._name} ({len(self._sizes)} parts, {total / 1e6:.0f} MB)")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def stop(self) -> None:
        """Every running transfer ends with its next block, by `Stopped`."""
        self._stopped = True

    @contextmanager
    def show(self, part: str, have: int, total: int | None) -> Iterator[Callable[[int], None]]:
        """A `Show`."""
        self._count(part, have, anew=True)
        yield lambda n: self._count(part, n)

    def there(self, part: str) -> None:
        """The part is whole, whether it was fetched now or before."""
        self._count(part, self._sizes[part], anew=True)
        with self._lock:
            self._told.add(part)
            if self._bar is None:
                self._say(f"{self._name}: {len(self._told)} of {len(self._sizes)} parts")

    def _count(self, part: str, n: int, anew: bool = False) -> None:
        if self._stopped:
            raise Stopped
        with self._lock:
            self._have[part] = n if anew else self._have[part] + n
            if self._bar:
                self._bar.update(self._task, completed=sum(self._have.values()))
