"""Fetching models and data ahead of a run."""

from __future__ import annotations

from collections.abc import Callable

from reattention_eval.checkpoints import ensure_embedded_model
from reattention_eval.cli.console import out
from reattention_eval.datasets import load_haystack
from reattention_eval.errors import ConfigError


def _say(line: str) -> None:
    out.print(line, soft_wrap=True, markup=False)


def fetch_model() -> None:
    """The embedded model, into the cache."""
    _say(f"model: {ensure_embedded_model(say=_say)}")


def fetch_essays() -> None:
    """The essays that needles are hidden in, into the cache."""
    haystack = load_haystack("essays")
    _say(f"text: {haystack.name}, {len(haystack.text):,} characters")


def fetch_demo() -> None:
    """Everything configs/eval_demo.py needs."""
    fetch_model()
    fetch_essays()


_PARTS: dict[str, Callable[[], None]] = {"demo": fetch_demo}


def prepare_named(name: str) -> None:
    """Fetch the named set; what is there already is left alone.

    Raises:
        ConfigError: no such set.
    """
    if name not in _PARTS:
        raise ConfigError(f"nothing called {name!r} to prepare; there are: {', '.join(_PARTS)}.")
    _PARTS[name]()
