"""A method in a word, as command lines take it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from reattention_eval.errors import ConfigError
from reattention_eval.methods.base import Method
from reattention_eval.methods.registry import build_method


def method_of_text(text: str) -> Method:
    """From `reattention`, or `reattention:chunk_size=2048,candidates=int8`.

    Raises:
        ConfigError: as `build_method`, or a setting without a value.
    """
    name, _, rest = text.partition(":")
    settings: dict[str, Any] = {"type": name}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(f"{text}: settings are given as name=value; found {part!r}.")
        settings[key.strip()] = _value(value.strip())
    return build_method(settings)


def text_of_method(settings: Mapping[str, Any]) -> str:
    """`method_of_text`'s word for what `method_settings` gave."""
    fields = ",".join(f"{key}={value}" for key, value in settings.items() if key != "type")
    return f"{settings['type']}:{fields}" if fields else str(settings["type"])


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
