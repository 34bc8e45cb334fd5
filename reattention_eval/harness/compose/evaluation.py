"""A whole evaluation as OpenCompass reads it: models x methods x the plans of benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reattention_eval.harness.compose.jobs import plan_jobs
from reattention_eval.harness.compose.opencompass_dataset import opencompass_dataset


def evaluation(
    models: Sequence[Mapping[str, Any]],
    methods: Sequence[Mapping[str, Any]],
    plans: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """`models`, `datasets` and `model_dataset_combinations` of a configuration.

    Args, Raises: as `plan_jobs`, whose jobs these are.
    """
    models_found: dict[str, dict[str, Any]] = {}
    datasets: dict[str, dict[str, dict[str, Any]]] = {}  # by model, then by dataset
    for job in plan_jobs(models, methods, plans):
        model, name = job.names
        models_found[model] = dict(job.model)
        own = datasets.setdefault(model, {})
        own[name] = opencompass_dataset(job)
    every = {name: dataset for found in datasets.values() for name, dataset in found.items()}
    return {
        "models": list(models_found.values()),
        "datasets": list(every.values()),
        "model_dataset_combinations": _combinations(models_found, datasets),
    }


def _combinations(
    models: Mapping[str, dict[str, Any]], datasets: Mapping[str, Mapping[str, dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Models that run on the same datasets stand together."""
    groups: list[dict[str, Any]] = []
    for name, model in models.items():
        own = list(datasets[name].values())
        group = next((group for group in groups if group["datasets"] == own), None)
        if group is None:
            groups.append({"models": [model], "datasets": own})
        else:
            group["models"].append(model)
    return groups
