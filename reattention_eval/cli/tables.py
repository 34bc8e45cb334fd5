"""The table of methods."""

from __future__ import annotations

from rich.table import Table

from reattention_eval.errors import ConfigError
from reattention_eval.methods import build_method, list_methods


def methods_table() -> Table:
    """Name, budget by default, settings by default, source."""
    table = Table()
    table.add_column("method", no_wrap=True)
    table.add_column("budget, tokens", justify="right")
    table.add_column("settings by default")
    table.add_column("source")
    for name in list_methods():
        try:
            method = build_method(name)
        except ConfigError as error:  # of an installed package: it says what is wrong with it
            table.add_row(name, "", str(error), "")
            continue
        settings = ", ".join(f"{key}={value}" for key, value in method.settings().items())
        budget = f"{method.budget:,}" if method.budget else "whole cache"
        table.add_row(name, budget, settings, method.source)
    return table
