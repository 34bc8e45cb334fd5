"""The bars: what each is called, and how its value follows from the raw numbers. Needs no GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Raw = dict[str, dict[str, Any]]
LAYERS = ("layer 4", "layer 13", "layer 22")  # of a real model's queries and keys
PROMPT, TEXT, PLANS = ("prompt",), ("text",), ("plans",)
# a copy reads and writes and reaches less than the memory's own rate, which reading alone may
# reach: 4.8 TB/s against 4.3 on an H200, 3.35 against 3.0 on an H100
READ_OVER_COPY = 1.12


@dataclass(frozen=True)
class Bar:
    """One line of the table: value is the worst over `judged` of `formula` of the raw numbers.

    Attributes:
        bar, hoped: what the value has to reach: at least, where `formula` is a rate or a speedup;
            at most, where it is a time or a size.
        formula: "rate": share of a ceiling's rate; "speedup": reference over ours; "excess": the
            first time less the second, seconds; "size": GiB; "tokens": of the longest prompt;
            "times": time over that of its work at a ceiling's rate; "outside": the time that is no
            part's, as a share of the whole; "deviation": the largest of several, relative.
        possible: a rate above it was measured on a card with neighbours, or wrongly.
    """

    id: str
    what: str
    unit: str
    bar: float
    hoped: float
    formula: str
    judged: tuple[str, ...] = ("random", "ar")
    possible: float | None = None

    @property
    def at_most(self) -> bool:
        return self.formula in ("excess", "size", "times", "outside", "deviation")

    def met(self, value: float) -> bool:
        return value <= self.bar if self.at_most else value >= self.bar

    def impossible(self, value: float) -> bool:
        return self.possible is not None and value > self.possible


KERNEL_BARS = [
    Bar("K1", "exact top-k, N=1M, of the matmul rate", "share", 0.80, 0.92, "rate", possible=1),
    Bar("K1s", "exact top-k, N=128K, of the matmul rate", "share", 0.72, 0.85, "rate", possible=1),
    Bar(
        "K2", "exact top-k, N=1M, D=64, of the matmul rate", "share", 0.60, 0.80, "rate",
        possible=1,
    ),
    Bar("K3", "whole selection, N=128K, vs cuDNN attention", "x", 1.55, 1.9, "speedup"),
    Bar(
        "K3i", "whole selection, a real model's keys, N=128K, vs cuDNN attention", "x", 2.3, 3.0,
        "speedup", LAYERS,
    ),
    Bar("K4", "whole selection, N=1M, vs cuDNN attention", "x", 1.9, 2.1, "speedup"),
    Bar("K5", "layer step, N=128K, vs cuDNN attention", "x", 1.35, 1.65, "speedup"),
    Bar("K6", "layer step, N=1M, vs cuDNN attention", "x", 1.8, 2.0, "speedup"),
    Bar(
        "K7", "whole selection, a real model's keys, N=512K, vs cuDNN attention", "x", 2.8, 4.0,
        "speedup", LAYERS,
    ),
    Bar(
        "K8", "decode selection, N=1M, of the copy bandwidth", "share", 0.85, 0.95, "rate",
        possible=READ_OVER_COPY,
    ),
    Bar("K9", "decode layer step, N=1M, vs cuDNN decode", "x", 1.5, 1.75, "speedup"),
]  # fmt: skip
# measured by `reattention-eval bench`; the reference is the fastest full attention of the same run
PROMPT_BARS = [
    Bar("E1", "LLaMA3.1-8B, TTFT at 131,072", "x", 1.25, 1.6, "speedup", PROMPT),
    Bar("E1m", "LLaMA3.1-8B, TTFT at 32,768", "x", 0.95, 1.1, "speedup", PROMPT),
    Bar("E2", "LLaMA3.1-8B, TTFT at 524,288", "x", 1.4, 2.4, "speedup", PROMPT),
    Bar("E3", "LLaMA3.1-8B, decode at 131,072", "x", 1.2, 1.35, "speedup", PROMPT),
    Bar("E4", "LLaMA3.1-8B, decode at 524,288", "x", 1.4, 2.2, "speedup", PROMPT),
    Bar("E5", "LLaMA3.1-8B, TTFT at 1,048,576 on 80 GB over linear layers' and selection's work",
        "x", 1.3, 1.1, "times", PROMPT),
    Bar("E6", "Qwen2-1.5B, longest prompt on 80 GB", "tokens", 2_000_000, 4_000_000, "tokens",
        PROMPT),
    Bar("E7", "1.5B, real text, decode at 131,072 kept with the values on the host", "share", 0.75,
        0.95, "speedup", TEXT),
    Bar("E7p", "the same, prompt", "share", 0.95, 1.0, "speedup", TEXT),
    Bar("E8", "LLaMA3.1-8B, outside selection, linear layers, MLP and view attention at 131,072",
        "share", 0.10, 0.03, "outside", PROMPT),
    Bar("E9", "Qwen2-1.5B, TTFT at 32,768", "x", 0.9, 1.1, "speedup", PROMPT),
    Bar("E10", "Qwen2-1.5B, TTFT at 1,048,576", "x", 1.75, 3.0, "speedup", PROMPT),
    Bar("E11", "LLaMA3.1-8B, first prefill at 32,768 less the second", "s", 5, 1, "excess",
        ("empty",)),
    Bar("E12", "LLaMA3.1-8B, peak above weights and KV cache at 131,072", "GiB", 1.5, 0.75, "size",
        PROMPT),
    Bar("E13", "plan's TTFT and peak against measured, worst of ten or more", "share", 0.15, 0.05,
        "deviation", PLANS),
]  # fmt: skip
RULES = {bar.id: bar for bar in KERNEL_BARS + PROMPT_BARS}


def value_of(bar: Bar, raw: Raw) -> float:
    """The bar's value from its raw numbers: the worst of the judged kinds of data."""
    worst = max if bar.at_most else min
    return worst(_value(bar.formula, raw[kind]) for kind in bar.judged)


def _value(formula: str, raw: dict[str, Any]) -> float:
    if formula == "rate":
        return (raw["work"] / raw["ms"]) / (raw["ceiling_work"] / raw["ceiling_ms"])
    if formula == "excess":
        return raw["first_seconds"] - raw["second_seconds"]
    if formula == "size":
        return raw["bytes"] / 2**30
    if formula == "tokens":
        return raw["tokens"]
    if formula == "times":
        return raw["ms"] / (raw["work"] * raw["ceiling_ms"] / raw["ceiling_work"])
    if formula == "outside":
        return raw["outside_ms"] / raw["ms"]
    if formula == "deviation":
        return max(abs(found) for run in raw["runs"] for found in run["deviations"])
    return raw["reference_ms"] / raw["ms"]


def value_from(entry: dict[str, Any]) -> float:
    """The value of a recorded entry, again."""
    return value_of(RULES[entry["id"]], entry["raw"])
