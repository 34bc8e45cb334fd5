"""The name under which forwards take their cache: `cache` since transformers 5.24."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from torch import nn

NAMES = ("past_key_values", "cache")


def cache_argument(module: nn.Module) -> str | None:
    """Of this module's forward; None where it takes no cache."""
    return _argument_of(type(module).forward)


@cache  # asked at every forward of the model
def _argument_of(forward: Callable[..., Any]) -> str | None:
    parameters = inspect.signature(forward).parameters
    return next((name for name in NAMES if name in parameters), None)


def with_cache(module: nn.Module, given: Mapping[str, Any], cache: object) -> dict[str, Any]:
    """Keyword arguments of a forward, with this cache and no other."""
    others = {name: value for name, value in given.items() if name not in NAMES}
    return {**others, cache_argument(module) or NAMES[0]: cache}


def given_cache(given: Mapping[str, Any]) -> Any:
    """The cache among keyword arguments, under either name; None where there is none."""
    return next((given[name] for name in NAMES if given.get(name) is not None), None)
