"""The table of methods."""

from __future__ import annotations

import dataclasses

from rich.table import Table

from reattention_eval.errors import ConfigError
from reattention_eval.methods import Method, build_method, list_methods, method_class


def methods_table() -> Table:
    """Name and budget by default; family, what the budget counts, settings by default, needs and
    source."""
    table = Table(show_lines=True)
    table.add_column("method", no_wrap=True)
    table.add_column("budget, tokens", justify="right")
    table.add_column("family; what budget_tokens counts; settings by default; source")
    for name in list_methods():
        try:
            cls = method_class(name)
        except ConfigError as error:  # of an installed package: it says what is wrong with it
            table.add_row(name, "", str(error))
            continue
        budget, settings = _by_default(name)
        meaning = f"budget_tokens: {cls.budget_meaning}" if cls.budget_meaning else ""
        needs = f"needs {cls.needs}" if cls.needs else ""
        lines = [cls.family, meaning, settings, needs, cls.source]
        table.add_row(name, budget, "\n".join(filter(None, lines)))
    return table


def _by_default(name: str) -> tuple[str, str]:
    """Budget and settings, or why there is no method by default."""
    try:
        method: Method = build_method(name)
    except ConfigError as error:  # a setting without a default, or something is not installed
        return "", str(error)
    names = [field.name for field in dataclasses.fields(method)]
    settings = ", ".join(f"{name}={getattr(method, name)}" for name in names)
    return f"{method.budget:,}" if method.budget else "none", settings
