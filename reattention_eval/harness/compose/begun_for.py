"""What is known of a run before anything of it ran: the parts of manifests to come that tables
read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from reattention_eval.errors import ReAttentionError
from reattention_eval.harness.compose.jobs import Job
from reattention_eval.harness.compose.opencompass_dataset import facts_of
from reattention_eval.harness.manifest import method_part
from reattention_eval.methods import build_method

Parts = dict[str, dict[str, Any]]


def of_jobs(jobs: Iterable[Job]) -> tuple[Parts, Parts]:
    """Of datasets and of models with methods, by their names."""
    jobs = list(jobs)
    return {job.dataset: dict(job.asked.facts) for job in jobs}, _models(job.model for job in jobs)


def of_entries(
    models: Iterable[Mapping[str, Any]], datasets: Iterable[Mapping[str, Any]]
) -> tuple[Parts, Parts]:
    """The same of an OpenCompass configuration's entries; of those that are not ours nothing."""
    facts = ((dataset, facts_of(dataset)) for dataset in datasets)
    return {str(d["abbr"]): own for d, own in facts if own.get("benchmark")}, _models(models)


def _models(entries: Iterable[Mapping[str, Any]]) -> Parts:
    found: Parts = {}
    for entry in entries:
        if not {"abbr", "name", "method"} <= set(entry) or entry["abbr"] in found:
            continue
        try:
            method = build_method(dict(entry["method"]))
        except ReAttentionError:  # the run itself says why it cannot
            continue
        cut = {"max_prompt_tokens": entry.get("max_prompt_tokens")}
        found[str(entry["abbr"])] = {
            "model": {"name": entry["name"], "settings": cut},
            "method": method_part(method),
        }
    return found
