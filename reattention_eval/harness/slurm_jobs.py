"""A run as SLURM batch jobs: one array a model with method, one element a dataset or a few.

    python -m reattention_eval.harness.slurm_jobs CONFIG MODEL INDEX SIZE

runs one element: what scripts/slurm/infer.sbatch calls. The configuration is the one that was
written down when the jobs were submitted, so later edits and variables change nothing.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from pathlib import Path
from typing import Any

from mmengine.config import Config
from opencompass.registry import TASKS
from opencompass.utils import (
    dataset_abbr_from_cfg,
    get_infer_output_path,
    model_abbr_from_cfg,
)

from reattention_eval.errors import ConfigError
from reattention_eval.harness.configuration import groups_of, read_configuration
from reattention_eval.harness.done import is_done
from reattention_eval.harness.preflight import find_problems
from reattention_eval.harness.runners import INFER_TASK


@dataclass(frozen=True)
class Job:
    """One array of jobs: a model with method, and its datasets in the configuration's order."""

    model: str
    gpus: int
    datasets: list[str]
    done: list[bool]

    def elements(self, size: int) -> list[int]:
        """Indices of the array elements of `size` datasets that still have something to do."""
        return [
            index
            for index in range(ceil(len(self.done) / size))
            if not all(self.done[index * size : (index + 1) * size])
        ]


def read_run(config: Path, work_dir: Path | None = None, run: str | None = None) -> Config:
    """A configuration as `opencompass` reads it, with its run's directory as `work_dir`.

    Args:
        config: an eval configuration.
        work_dir: replaces the configuration's own.
        run: a run of that directory to go on with, by its timestamp or as "latest"; None begins
            one.

    Raises:
        ConfigError: no such configuration or run.
    """
    read = read_configuration(config)
    root = (work_dir or Path(str(read.get("work_dir", "outputs/default")))).expanduser().resolve()
    there = sorted(path.parent.name for path in root.glob("*/configs"))
    if run == "latest" and there:
        run = there[-1]
    if run and run not in there:
        raise ConfigError(
            f"{root} holds no run {run}; there are: {', '.join(there) or 'none'}. Leave it out to "
            "begin one."
        )
    read["work_dir"] = str(root / (run or _now()))
    return read


def freeze(read: Config) -> Path:
    """Write it down in its run's directory, for the jobs; a file of its own each time."""
    folder = Path(read.work_dir) / "configs"
    folder.mkdir(parents=True, exist_ok=True)
    frozen = folder / f"slurm_{_now()}_{os.getpid()}.py"
    read.dump(frozen)
    return frozen


def jobs(read: Config) -> list[Job]:
    """Every array that the run consists of, with what of it is done already."""
    predictions, log = str(Path(read.work_dir) / "predictions"), logging.getLogger(__name__)
    return [
        Job(
            model=name,
            gpus=int(model.get("run_cfg", {}).get("num_gpus", 0)),
            datasets=[dataset_abbr_from_cfg(dataset) for dataset in datasets],
            done=[
                is_done(Path(get_infer_output_path(model, dataset, predictions)), log)
                for dataset in datasets
            ],
        )
        for name, (model, datasets) in _pairs(read).items()
    ]


def check_run(read: Config) -> None:
    """Raise ConfigError, naming everything that is wrong, where the run cannot work as far as that
    is known before a model is loaded (`preflight.find_problems`)."""
    if problems := find_problems(_pairs(read).values()):
        raise ConfigError("\nerror: ".join(problems))


def run_element(config: Path, model: str, index: int, size: int) -> int:
    """Run the inference of `size` datasets from `index * size` on; the task's exit status.

    Raises:
        ConfigError: the configuration has no such model.
    """
    read = read_configuration(config)
    pairs = _pairs(read)
    if model not in pairs:
        raise ConfigError(f"{config} has no model {model}; submit the jobs anew.")
    model_cfg, datasets = pairs[model]
    part = datasets[index * size : (index + 1) * size]
    task_cfg = Config({"models": [model_cfg], "datasets": [part], "work_dir": read.work_dir})
    task = TASKS.build({"cfg": task_cfg, "type": INFER_TASK})
    with tempfile.TemporaryDirectory(prefix="reattention-job-") as folder:
        file = Path(folder) / "task.py"
        task_cfg.dump(file)
        command = task.get_command(cfg_path=str(file), template="{task_cmd}")
        status = subprocess.run(["bash", "-c", command]).returncode
    return status if status >= 0 else 128 - status  # ended by a signal: as a shell says it


def _pairs(config: Config) -> dict[str, tuple[Any, list[Any]]]:
    """Every model by its abbreviation, with the datasets that it is asked for."""
    pairs: dict[str, tuple[Any, list[Any]]] = {}
    for group in groups_of(config):
        for model in group["models"]:
            pairs.setdefault(model_abbr_from_cfg(model), (model, []))[1].extend(group["datasets"])
    return pairs


def _now() -> str:
    return datetime.now().strftime("%Y%m%d_%H%M%S")


def main(words: Sequence[str] | None = None) -> int:
    """The command of one array element."""
    given = list(sys.argv[1:] if words is None else words)
    if len(given) != 4:
        raise SystemExit(__doc__)
    config, model, index, size = given
    return run_element(Path(config), model, int(index), int(size))


if __name__ == "__main__":
    raise SystemExit(main())
