"""The E bars of a record, as entries of results/gpu/bars.json."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from reattention_eval.efficiency.e2e.record import E2ERecord
from reattention_eval.efficiency.e2e.results import Column, columns, figure_of
from reattention_eval.efficiency.e2e.tier_bars import LLAMA, QWEN, tier_bars
from reattention_kernels.bench.rules import RULES, value_of

FORM = "reattention"  # defaults
KIND = "prompt"  # of random tokens
# a whole prompt must be beside the chunked one, where a card can hold it
WHOLE_UNTIL, WHOLE = 131_072, "whole-cudnn"
COLD_TOKENS, PARTS_TOKENS = 32_768, 131_072


@dataclass(frozen=True)
class Source:
    """Where a bar's raw numbers stand in the record of `model`."""

    model: str
    tokens: int
    figure: str


SOURCES = {
    "E1": Source(LLAMA, 131_072, "ttft_seconds"),
    "E1m": Source(LLAMA, 32_768, "ttft_seconds"),
    "E2": Source(LLAMA, 524_288, "ttft_seconds"),
    "E3": Source(LLAMA, 131_072, "tpot_seconds"),
    "E4": Source(LLAMA, 524_288, "tpot_seconds"),
    "E9": Source(QWEN, 32_768, "ttft_seconds"),
    "E10": Source(QWEN, 1_048_576, "ttft_seconds"),
    "E12": Source(LLAMA, 131_072, "above_bytes"),
}
COLD = "E11"


def bars_of(record: E2ERecord, say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Entries of the bars that this record holds; says of the others why not.

    Raises:
        DataError: forms that should agree do not.
    """
    found = columns(record)
    entries = [
        _entry(bar, raw, shape, column.environment)
        for bar, raw, shape, column in tier_bars(record, found)
        if traceable(column.environment)
    ]
    random = record.data["weights"].startswith("random")
    if not random or record.data.get("gpu_memory") or record.long_answers:
        if not entries:
            say(f"{record.name}: bars are measured on random weights, a whole card and short "
                "answers, but those of the cache's tiers.")  # fmt: skip
        return entries
    by_length = {column.tokens: column for column in found}
    for bar, source in SOURCES.items():
        column = by_length.get(source.tokens)
        if record.data["model"] != source.model or column is None:
            continue
        raw, why = _raw(column, source)
        if raw:
            shape = f"{source.model} {source.tokens} tokens"
            entries.append(_entry(bar, {KIND: raw}, shape, column.environment))
        else:
            say(f"{bar}: {why}")
    for cold in record.data.get("cold", []):
        env = record.data["environments"][cold["environment"]]
        wanted = (LLAMA, COLD_TOKENS, FORM)
        if (record.data["model"], cold["tokens"], cold["form"]) == wanted and traceable(env):
            shape = f"{LLAMA} {COLD_TOKENS} tokens"
            entries.append(
                _entry(COLD, {state: cold[state] for state in ("empty", "filled")}, shape, env)
            )
    for parts in record.data.get("parts", []):
        env = record.data["environments"][parts["environment"]]
        wanted = (LLAMA, PARTS_TOKENS, FORM)
        if (record.data["model"], parts["tokens"], parts["form"]) == wanted and traceable(env):
            raw = {name: parts[name] for name in ("ms", "kernels_ms", "outside_ms", "parts_ms")}
            entries.append(_entry("E8", {KIND: raw}, f"{LLAMA} {PARTS_TOKENS} tokens", env))
    return entries


def entry_of_plans(runs: list[dict[str, Any]], environment: dict[str, Any]) -> dict[str, Any]:
    """E13. runs: what was planned and measured, each with its `deviations`."""
    shape = f"{len(runs)} prompts of {len({run['model'] for run in runs})} models"
    return _entry("E13", {"plans": {"runs": runs}}, shape, environment)


def _raw(column: Column, source: Source) -> tuple[dict[str, Any] | None, str]:
    """A bar's raw numbers, or why there are none."""
    if not traceable(column.environment):
        return None, "measured on no GPU, or on a tree with changes"
    own = figure_of(column.cells.get(FORM, {}), source.figure)
    if own is None:
        return None, f"{FORM} was not measured at {source.tokens:,}"
    if source.figure == "above_bytes":
        return {"bytes": own}, ""
    if source.figure == "ttft_seconds":
        wanted = ("full", WHOLE) if source.tokens <= WHOLE_UNTIL else ("full",)
        for form in wanted:
            if not column.cells.get(form, {}).get("runs"):
                return None, f"{form} was not measured beside it at {source.tokens:,}"
    baseline = column.fastest_full(source.figure)
    if baseline is None:
        return None, "no full attention was measured beside it"
    others = {
        form: 1000 * value
        for form, cell in column.cells.items()
        if cell["full"] and (value := figure_of(cell, source.figure)) is not None
    }
    return {
        "ms": 1000 * own,
        "reference_ms": 1000 * baseline[1],
        "reference": baseline[0],
        "full_ms": others,
        "runs": len(column.cells[FORM]["runs"]),
    }, ""


def traceable(environment: dict[str, Any]) -> bool:
    return bool(environment.get("commit") and environment.get("uuid"))


def _entry(
    bar: str, raw: dict[str, Any], shape: str, environment: dict[str, Any]
) -> dict[str, Any]:
    rule = RULES[bar]
    versions = environment["versions"]
    return {
        "id": bar, "value": value_of(rule, raw), "unit": rule.unit, "shape": shape, "raw": raw,
        "device": environment["device"], "torch": versions["torch"],
        "triton": versions.get("triton"), "transformers": versions["transformers"],
        "date": environment["date"], "commit": environment["commit"],
        "source": environment["source"], "package": environment["package"],
    }  # fmt: skip
