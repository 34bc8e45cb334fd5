"""One way to every scorer: `score(benchmark, task, predictions, references)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reattention_eval.benchmarks.registry import find_benchmark, list_benchmarks
from reattention_eval.errors import ConfigError, DataError
from reattention_eval.evaluators.rules import TaskRule, is_blank


def list_tasks() -> dict[str, tuple[str, ...]]:
    """Every benchmark that can be scored and its tasks."""
    return {name: tuple(find_benchmark(name).tasks) for name in list_benchmarks()}


def main_metric(benchmark: str, task: str, scoring: str = "official") -> str:
    """Which of the figures of `score` stands for the task in a table.

    Raises:
        ConfigError: unknown benchmark, task or rule, or a task that the rule leaves out.
    """
    return _rule(benchmark, task, scoring).main


def score(
    benchmark: str,
    task: str,
    predictions: Sequence[str],
    references: Sequence[Any],
    scoring: str = "official",
) -> dict[str, float]:
    """The figures of one task, mostly in percent (0..100); each scorer's docstring says which.

    Args:
        references: one for each prediction, as in the benchmark's raw file.
        scoring: the rule; every benchmark has "official".

    Raises:
        ConfigError: unknown benchmark, task or rule (the message lists those that exist).
        DataError: no predictions, or not as many references as predictions; a prediction that is
            no text, or a reference without any.
    """
    rule = _rule(benchmark, task, scoring)
    if not predictions or len(predictions) != len(references):
        raise DataError(
            f"{benchmark}/{task}: {len(predictions)} predictions for {len(references)} references; "
            "both are needed, one for each sample: run the missing samples again."
        )
    for index, pair in enumerate(zip(predictions, references, strict=True)):
        if not isinstance(pair[0], str) or is_blank(pair[1]):
            raise DataError(
                f"{benchmark}/{task}: sample {index} has the prediction {pair[0]!r:.60} and the "
                f"reference {pair[1]!r:.60}; a prediction is a text (empty where nothing was "
                "said), and a reference holds one."
            )
    return rule.scorer(predictions, references)


def _rule(benchmark: str, task: str, scoring: str) -> TaskRule:
    known = find_benchmark(benchmark)
    known.task(task)
    if scoring not in known.rules:
        raise ConfigError(
            f"there is no scoring of {benchmark} {scoring!r}; choose from "
            f"{', '.join(sorted(known.rules))}."
        )
    rules = known.rules[scoring]
    if task not in rules:
        raise ConfigError(
            f"{benchmark}/{task} has no scoring {scoring!r}; use 'official', which has all tasks "
            f"({scoring} has {', '.join(rules)})."
        )
    return rules[task]
