"""A method in a word, as command lines take it."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from reattention_eval.errors import ConfigError
from reattention_eval.methods.base import Method
from reattention_eval.methods.registry import build_method, method_class


def method_of_text(text: str) -> Method:
    """From `reattention`, or `reattention:chunk_size=2048,max_spans=256`; a value may be a dict,
    as `kvpress:press=BlockPress,press_settings={'press': 'KeyDiffPress', 'block_size': 64}`.

    Raises:
        ConfigError: as `build_method`, or a setting without a name or a value, or given twice.
    """
    return build_method(settings_of_text(text))


def settings_of_text(text: str) -> dict[str, Any]:
    """The same as a configuration has it: a dict with its type and what the text gives.

    Raises:
        ConfigError: a setting without a name or a value, or given twice.
    """
    name, _, rest = text.partition(":")
    settings: dict[str, Any] = {"type": name}
    for part in filter(str.strip, _parts(rest)):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"{text}: settings are given as name=value; found {part!r}.")
        if key.strip() in settings:
            raise ConfigError(f"{text}: {key.strip()} is given twice; leave one of them out.")
        settings[key.strip()] = _value(value.strip())
    return settings


def text_of_method(settings: Mapping[str, Any]) -> str:
    """`method_of_text`'s word for what `method_settings` gave, without what is so by default."""
    default = default_settings(str(settings["type"]))
    own = [
        f"{name}={value}" for name, value in settings.items()
        if name != "type" and not (name in default and default[name] == value)
    ]  # fmt: skip
    return f"{settings['type']}:{','.join(own)}" if own else str(settings["type"])


def default_settings(name: str) -> dict[str, Any]:
    """What a method's settings are by default; nothing of one that is not installed here."""
    try:
        fields = dataclasses.fields(method_class(name))
    except ConfigError:
        return {}
    return {
        field.name: field.default_factory() if callable(field.default_factory) else field.default
        for field in fields
    }


def usual_settings(name: str, budget: int | None, own: Mapping[str, Any]) -> dict[str, Any]:
    """`default_settings`, and what follows from a budget beside a method's `own` settings."""
    usual = default_settings(name)
    if usual and budget:
        # it has none, or it is a setting by itself, or what is asked about is damaged
        with suppress(ConfigError, TypeError, ArithmeticError):
            usual |= method_class(name).budget_settings(budget, own)
    return usual


def _parts(text: str) -> list[str]:
    """What commas part that are in no bracket and no quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not quote and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
