"""A batch that fails is tried again one by one: one bad sample takes no other with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def outcomes(
    wanted: Sequence[int],
    compute: Callable[[Sequence[int]], Sequence[T]],
    log: logging.Logger,
    what: str,
) -> Iterator[tuple[int, T | str]]:
    """Each index with what `compute` gives for it, or the reason why it fails alone.

    what: names one in the log.
    """
    if not wanted:
        return
    try:
        found = list(zip(wanted, compute(wanted), strict=True))
    except Exception as error:
        if len(wanted) == 1:
            log.exception(f"{what} {wanted[0]} failed")
            yield wanted[0], f"{type(error).__name__}: {error}"
            return
        for index in wanted:
            yield from outcomes([index], compute, log, what)
    else:
        yield from found
