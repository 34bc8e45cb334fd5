"""How a run is cut into tasks: by model, and further only where workers would be idle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from math import ceil
from pathlib import Path
from typing import Any

from mmengine.config import Config
from opencompass.partitioners import NaivePartitioner
from opencompass.partitioners.base import BasePartitioner
from opencompass.utils import (
    dataset_abbr_from_cfg,
    get_infer_output_path,
    model_abbr_from_cfg,
)

from reattention_eval.errors import ConfigError
from reattention_eval.harness.compose.begun_for import of_entries
from reattention_eval.harness.compose.opencompass_dataset import facts_of
from reattention_eval.harness.done import is_done, set_aside
from reattention_eval.harness.preflight import find_problems, machine_lacks
from reattention_eval.harness.time_limit import run_ends
from reattention_eval.report.expected import note_expected

# LLaMA3.1-8B's shape on an H100 at 128K: 14 ms a new token, 0.1 ms one of the prompt
PROMPT_TOKENS_A_NEW_ONE = 100


class WorkerPartitioner(BasePartitioner):
    """One task a model with method, so that its checkpoint is loaded once.

    Where that gives fewer tasks than workers, the datasets of every model are dealt out over as
    many tasks as keep the workers busy, each of about the same work by estimate; a task also
    learns what the others of its model were dealt (`others`), so that it can help them when it is
    done. Datasets whose output is there already, and whole, are left out.
    Ends the run before the first task where a model cannot be had, or its datasets cannot be made
    for it, naming everything that is wrong.

    Args:
        out_dir: where outputs are looked for; OpenCompass sets it.
        num_worker: tasks that can run at once.
        keep_keys: OpenCompass's.
    """

    def __init__(
        self, out_dir: str, num_worker: int = 1, keep_keys: list[str] | None = None
    ) -> None:
        super().__init__(out_dir=out_dir, keep_keys=keep_keys)
        self.num_worker = num_worker

    def partition(
        self,
        model_dataset_combinations: Sequence[Mapping[str, Any]],
        work_dir: str,
        out_dir: str,
        add_cfg: Mapping[str, Any] | None = None,
    ) -> list[Config]:
        """The tasks, in the order of the configuration."""
        wanted: list[tuple[Any, list[Any]]] = []
        expected: list[tuple[str, str]] = []
        for group in model_dataset_combinations:
            for model in group["models"]:
                abbr = model_abbr_from_cfg(model)
                expected += [(abbr, dataset_abbr_from_cfg(d)) for d in group["datasets"]]
                missing = [
                    dataset
                    for dataset in group["datasets"]
                    if not is_done(
                        Path(get_infer_output_path(model, dataset, out_dir)), self.logger
                    )
                ]
                if missing:
                    wanted.append((model, missing))
        check_jobs(wanted)
        if lacking := machine_lacks(wanted):
            self.logger.warning(lacking)
        try:
            until = run_ends()
        except ConfigError as error:
            raise SystemExit(f"error: {error}") from None
        groups = model_dataset_combinations
        about = of_entries(
            [model for group in groups for model in group["models"]],
            [dataset for group in groups for dataset in group["datasets"]],
        )
        note_expected(Path(work_dir), expected, *about)
        workers = max(1, ceil(self.num_worker / max(1, len(wanted))))
        tasks: list[Config] = []
        for model, datasets in wanted:
            shares = split_by_cost(datasets, workers)
            for i, own in enumerate(shares):
                names = ", ".join(dataset_abbr_from_cfg(dataset) for dataset in own)
                self.logger.info(f"task {len(tasks)}: {model_abbr_from_cfg(model)} on {names}")
                task = {"models": [model], "datasets": [own], "work_dir": work_dir}
                others = datasets_of_others(shares, i)
                tasks.append(Config({**task, "others": others, "until": until, **(add_cfg or {})}))
        return tasks


class ScorePartitioner(NaivePartitioner):
    """OpenCompass's, for evaluations: datasets whose result is damaged are scored again."""

    def partition(
        self,
        model_dataset_combinations: Sequence[Mapping[str, Any]],
        work_dir: str,
        out_dir: str,
        add_cfg: Mapping[str, Any] | None = None,
    ) -> list[Config]:
        """The tasks, in the order of the configuration."""
        for group in model_dataset_combinations:
            for model in group["models"]:
                for dataset in group["datasets"]:
                    set_aside(Path(get_infer_output_path(model, dataset, out_dir)), self.logger)
        tasks: list[Config] = super().partition(
            model_dataset_combinations, work_dir, out_dir, add_cfg or {}
        )
        return tasks


def check_jobs(wanted: Sequence[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]]) -> None:
    """Raise SystemExit, one sentence a problem, where a run cannot work as far as that is known
    before a model is loaded (`preflight.find_problems`)."""
    if problems := find_problems(wanted):
        raise SystemExit("\n".join(f"error: {problem}" for problem in problems))


def split_by_cost(datasets: Sequence[Any], workers: int) -> list[list[Any]]:
    """`datasets` over at most `workers` lists of about the same work, none of them empty.

    The largest first, each to the list that has least; what costs the same goes round in turn.
    A list keeps the order of the configuration.
    """
    costs = [cost_of(dataset) for dataset in datasets]
    lists: list[list[int]] = [[] for _ in range(min(workers, len(datasets)))]
    loads = [0.0] * len(lists)
    for i in sorted(range(len(datasets)), key=lambda i: -costs[i]):
        least = loads.index(min(loads))
        lists[least].append(i)
        loads[least] += costs[i]
    return [[datasets[i] for i in sorted(found)] for found in lists]


def datasets_of_others(shares: Sequence[Sequence[Any]], own: int) -> list[Any]:
    """What the other workers have, those first that their owners come to last."""
    lists = [share[::-1] for share in (*shares[own + 1 :], *shares[:own])]
    return [dataset for turn in zip_longest(*lists) for dataset in turn if dataset is not None]


def cost_of(dataset: Mapping[str, Any]) -> float:
    """What a dataset takes, in tokens of prompt; 1 where its configuration does not say.

    Where the number of prompts stands in a file, only their length counts.
    """
    facts = facts_of(dataset)
    if not facts.get("length"):
        return 1.0
    needles = len(facts.get("depths", [0])) * facts.get("repeats", 1)
    prompts = facts.get("samples", needles)
    read = min(prompts, facts.get("haystacks", prompts))  # prompts of one haystack share a prefill
    new = (facts["max_out_len"] or 0) * PROMPT_TOKENS_A_NEW_ONE
    return float(read * facts["length"] + prompts * new)
