"""Figures of a task's samples under one rule or two, with each sample's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reattention_eval.benchmarks.base import Benchmark
from reattention_eval.errors import ConfigError
from reattention_eval.evaluators.libraries import require
from reattention_eval.evaluators.rules import TaskRule

# a scoring, and what its figures' names begin with, so that no table mixes two rules
_PREFIX = {"official": "", "opencompass": "opencompass_"}


def rules_for(benchmark: Benchmark, task: str, scoring: str) -> list[str]:
    """The rules that `scoring` (official, opencompass, both) means for this task.

    A task that OpenCompass does not score has its official rule alone.
    """
    asked = ["official", "opencompass"] if scoring == "both" else [scoring]
    known = [rule for rule in asked if task in benchmark.rules.get(rule, ())]
    return known or ["official"]


def check_libraries(benchmark: Benchmark, task: str, scoring: str) -> None:
    """Nothing if this machine has what the task's rules are scored with.

    Raises:
        MachineError: it lacks a library.
    """
    for name in rules_for(benchmark, task, scoring):
        if task in benchmark.rules.get(name, ()):
            require(benchmark.rules[name][task].libraries)


def scored(
    benchmark: Benchmark, task: str, details: Sequence[dict[str, Any]], scoring: str
) -> dict[str, Any]:
    """Figures of a task (mostly in percent), `n` samples, and `details` of each.

    `score` is the figure that stands for the task; figures of OpenCompass's rule begin with
    `opencompass_`. `n` counts the samples of the first rule.

    Args:
        details: prediction, reference and scorings (the rules that count it) of each sample; its
            own score is added.
    """
    figures: dict[str, float] = {}
    counts = []
    for name in rules_for(benchmark, task, scoring):
        counted = [detail for detail in details if name in detail["scorings"]]
        counts.append(len(counted))
        if counted:
            rule = benchmark.rules[name][task]
            figures |= _under(rule, _PREFIX[name], counted, f"{benchmark.name}/{task}")
    return {**figures, "n": counts[0], "details": list(details)}


def _under(
    rule: TaskRule, prefix: str, counted: Sequence[dict[str, Any]], what: str
) -> dict[str, float]:
    """One rule's figures; each sample's own score goes into its details."""
    for detail in counted:
        own = rule.scorer([detail["prediction"]], [detail["reference"]])
        if rule.main not in own:
            raise ConfigError(
                f"the rule of {what} names {rule.main!r} as its main figure, and its scorer gives "
                f"{', '.join(own)}; give TaskRule one of these."
            )
        detail[f"{prefix}score"] = own[rule.main]
    together = rule.scorer(
        [detail["prediction"] for detail in counted], [detail["reference"] for detail in counted]
    )
    others = {f"{prefix}{name}": value for name, value in together.items() if name != "score"}
    return {f"{prefix}score": together[rule.main], **others}
