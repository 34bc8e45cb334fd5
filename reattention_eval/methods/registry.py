"""Methods by the name that configurations and the command line use."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from reattention_eval.errors import ConfigError
from reattention_eval.methods.base import Method
from reattention_eval.methods.full import FullAttention
from reattention_eval.methods.reattention import ReAttention
from reattention_eval.methods.streaming_llm import StreamingLLM

_METHODS: dict[str, type[Method]] = {
    method.name: method for method in (ReAttention, FullAttention, StreamingLLM)
}


def list_methods() -> list[str]:
    """Names of the methods, in the order they are presented."""
    return list(_METHODS)


def method_class(name: str) -> type[Method]:
    """Raises ConfigError, naming those that exist, for an unknown name."""
    if name not in _METHODS:
        raise ConfigError(f"unknown method {name!r}; there are: {', '.join(_METHODS)}.")
    return _METHODS[name]


def build_method(settings: Mapping[str, Any] | str | Method) -> Method:
    """A method from `dict(type="reattention", local_size=2048, ...)`, or from its name alone.

    Raises ConfigError for an unknown name or field, naming those that exist.
    """
    if isinstance(settings, Method):
        return settings
    if isinstance(settings, str):
        settings = {"type": settings}
    if not isinstance(settings, Mapping) or any(not isinstance(name, str) for name in settings):
        raise ConfigError(
            f"a method is given by its name, by a dict with its type and settings, or as an "
            f"object; found {settings!r:.80}. There are: {', '.join(_METHODS)}."
        )
    if "type" not in settings:
        raise ConfigError(
            f"a method needs a type, as in dict(type='reattention'); found only "
            f"{sorted(settings)}; there are: {', '.join(_METHODS)}."
        )
    fields = {name: value for name, value in settings.items() if name != "type"}
    cls = method_class(str(settings["type"]))
    known = [field.name for field in dataclasses.fields(cls)]
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise ConfigError(
            f"{cls.name} has no setting {', '.join(unknown)}; there are: {', '.join(known)}."
        )
    return cls(**fields)
