"""Runs in pieces: after so many minutes no further sample is begun; `-r` goes on from there."""

from __future__ import annotations

import math
import os
import time

from reattention_eval.errors import ConfigError

VARIABLE = "REATTENTION_MINUTES"


def run_ends() -> float | None:
    """When a run that starts now begins nothing any more, in seconds since the epoch; None: never.

    Raises:
        ConfigError: REATTENTION_MINUTES is no positive number.
    """
    words = os.environ.get(VARIABLE, "").strip()
    if not words:
        return None
    try:
        minutes = float(words)
    except ValueError:
        minutes = math.nan
    if not 0 < minutes < math.inf:
        raise ConfigError(f"{VARIABLE} is {words!r}; give a positive number of minutes.")
    return time.time() + 60 * minutes


def is_over(until: float | None) -> bool:
    """Whether the time that `run_ends` gave has come."""
    return until is not None and time.time() >= until
