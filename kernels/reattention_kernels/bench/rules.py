"""The bars: what each is called, and how its value follows from the raw timings. Needs no GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Raw = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Bar:
    """One line of the table: value is the worst over `judged` of `formula` of the raw numbers."""

    id: str
    what: str
    unit: str
    at_least: float
    hoped: float
    formula: str  # "rate": share of a ceiling's rate; "speedup": reference over ours
    judged: tuple[str, ...] = ("random", "ar")


BARS = [
    Bar("K1", "exact top-k, N=1M, of the matmul rate", "share", 0.80, 0.92, "rate"),
    Bar("K1s", "exact top-k, N=128K, of the matmul rate", "share", 0.72, 0.85, "rate"),
    Bar("K2", "exact top-k, N=1M, D=64, of the matmul rate", "share", 0.60, 0.80, "rate"),
    Bar("K3", "whole selection, N=128K, vs cuDNN attention", "x", 1.55, 1.9, "speedup"),
    Bar("K4", "whole selection, N=1M, vs cuDNN attention", "x", 1.9, 2.1, "speedup"),
    Bar("K5", "layer step, N=128K, vs cuDNN attention", "x", 1.35, 1.65, "speedup"),
    Bar("K6", "layer step, N=1M, vs cuDNN attention", "x", 1.8, 2.0, "speedup"),
    Bar(
        "K7", "certified int8 selection, N=1M, vs cuDNN attention", "x", 3.0, 4.5, "speedup",
        ("statistics",),
    ),
    Bar("K8", "decode selection, N=1M, of the copy bandwidth", "share", 0.85, 0.95, "rate"),
    Bar("K9", "decode layer step, N=1M, vs cuDNN decode", "x", 1.5, 1.75, "speedup"),
    Bar("K9i", "decode layer step with int8, N=1M, vs cuDNN decode", "x", 2.2, 3.2, "speedup"),
]  # fmt: skip


def value_of(bar: Bar, raw: Raw) -> float:
    """The bar's value from its raw numbers: the worst of the judged kinds of data."""
    return min(_value(bar.formula, raw[kind]) for kind in bar.judged)


def _value(formula: str, raw: dict[str, Any]) -> float:
    if formula == "rate":
        return (raw["work"] / raw["ms"]) / (raw["ceiling_work"] / raw["ceiling_ms"])
    return raw["reference_ms"] / raw["ms"]


RULES = {bar.id: bar for bar in BARS}


def value_from(entry: dict[str, Any]) -> float:
    """The value of a recorded entry, again."""
    return value_of(RULES[entry["id"]], entry["raw"])
