"""Short names for models and methods, by their manifests, or by what is known of those to come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reattention_eval.methods import usual_settings
from reattention_eval.report.run import Cell
from reattention_eval.report.told import named


def model_name(cell: Cell) -> str:
    """The checkpoint's name, as its manifest or else its abbreviation says it."""
    if name := cell.about.get("model", {}).get("name"):
        return str(name)
    known = named(cell.model)
    return known.model if known else cell.model


def method_name(cell: Cell) -> str | None:
    """The same of its method's."""
    if name := cell.about.get("method", {}).get("name"):
        return str(name)
    known = named(cell.model)
    return known.method if known else None


def method_labels(cells: Sequence[Cell]) -> dict[str, str]:
    """Model abbreviation -> method and budget; settings are added where that is not enough.

    Two settings of one method on one checkpoint are told apart by the fields in which they differ,
    and by how many tokens of a prompt the model is given at most. A field's default, what follows
    from the budget, and what a manifest does not have go without saying.
    """
    first = {cell.model: cell for cell in reversed(cells)}
    base = {abbr: _base(cell) for abbr, cell in first.items()}
    labels = {}
    for abbr, cell in first.items():
        twins = [
            other for other in first
            if base[other] == base[abbr] and model_name(first[other]) == model_name(cell)
        ]  # fmt: skip
        differing = _differing([_settings(first[twin]) for twin in twins])
        own = _unusual(cell)
        extra = ", ".join(f"{key}={own[key]}" for key in differing if key in own)
        labels[abbr] = f"{base[abbr]} ({extra})" if extra else base[abbr]
    return labels


def _base(cell: Cell) -> str:
    method = cell.about.get("method", {})
    if not method:
        known = named(cell.model)
        return known.words if known else cell.model
    budget = method.get("budget")
    return f"{method['name']} {budget:,}" if budget else str(method["name"])


def _settings(cell: Cell) -> dict[str, Any]:
    settings: dict[str, Any] = cell.about.get("method", {}).get("settings", {})
    own = cell.about.get("model", {}).get("settings", {})
    return {**settings, "max_prompt_tokens": own.get("max_prompt_tokens")}


def _unusual(cell: Cell) -> dict[str, Any]:
    own, budget = _settings(cell), cell.about.get("method", {}).get("budget")
    usual = usual_settings(str(method_name(cell)), budget, own)
    return {key: value for key, value in own.items() if value != usual.get(key)}


def _differing(settings: list[dict[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for one in settings for key in one)
    return [key for key in keys if len({repr(one.get(key)) for one in settings}) > 1]
