"""The `infer` and `eval` sections of a configuration: on this machine, or through SLURM.

Variables, each read when the configuration is:

    REATTENTION_RUNNER            local (default) or slurm, for configs/runners/auto.py
    REATTENTION_WORKERS_PER_GPU   tasks that share a GPU of this machine (1)
    REATTENTION_SLURM_PARTITION   SLURM's partition; `opencompass -p NAME` says the same
    REATTENTION_SLURM_JOBS        srun at once (8)
    REATTENTION_SLURM_RETRY       further tries of a failed task (2)
    REATTENTION_SLURM_OPTIONS     more words for srun, e.g. "--mem=64G -c 8 --time=12:00:00"
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from typing import Any

from reattention_eval.errors import ConfigError

# classes by their path: OpenCompass writes configurations out
PARTITIONER = "reattention_eval.harness.partition.WorkerPartitioner"
INFER_TASK = "reattention_eval.harness.tasks.LongContextInferTask"
EVAL_TASK = "reattention_eval.harness.tasks.LongContextEvalTask"
_EVAL_PARTITIONER = "reattention_eval.harness.partition.ScorePartitioner"
_LOCAL = "reattention_eval.harness.local_runner.SayingLocalRunner"
_SLURM = "opencompass.runners.SlurmRunner"
_EVAL_WORKERS = 2  # scoring is a matter of seconds on a processor
_WHOLE_MODEL = 1000  # datasets in one evaluation task: the imports cost more than the scoring


def chosen_sections() -> dict[str, Any]:
    """As REATTENTION_RUNNER says.

    Raises:
        ConfigError: neither local nor slurm.
    """
    kind = os.environ.get("REATTENTION_RUNNER") or "local"
    kinds = {"local": local_sections, "slurm": slurm_sections}
    if kind not in kinds:
        raise ConfigError(f"REATTENTION_RUNNER is {kind!r}; give {' or '.join(kinds)}.")
    return kinds[kind]()


def local_sections() -> dict[str, Any]:
    """`infer` and `eval` for LocalRunner: a task at a time on a CPU, one on each GPU."""
    if _slurm_flag():
        return _flag_sections()
    workers = _number("REATTENTION_WORKERS_PER_GPU", 1)
    import torch

    slots = max(1, torch.cuda.device_count() * workers)
    runner = {"type": _LOCAL, "max_num_workers": slots, "max_workers_per_gpu": workers}
    score = {"type": _LOCAL, "max_num_workers": _EVAL_WORKERS}
    return _sections(slots, runner, score)


def slurm_sections() -> dict[str, Any]:
    """`infer` and `eval` for SlurmRunner: each task is an `srun` of its own.

    Raises:
        ConfigError: a variable that cannot be read.
    """
    if _slurm_flag():
        return _flag_sections()
    jobs = _number("REATTENTION_SLURM_JOBS", 8)
    runner = {
        "type": _SLURM,
        "max_num_workers": jobs,
        "retry": _number("REATTENTION_SLURM_RETRY", 2, least=0),
        "partition": os.environ.get("REATTENTION_SLURM_PARTITION") or None,
        "extra_command": slurm_options(),
    }
    return _sections(jobs, runner, dict(runner))


def slurm_options() -> list[str]:
    """REATTENTION_SLURM_OPTIONS as words, each safe in a shell's command line.

    Raises:
        ConfigError: an open quotation mark.
    """
    text = os.environ.get("REATTENTION_SLURM_OPTIONS", "")
    try:
        return [shlex.quote(word) for word in shlex.split(text)]
    except ValueError as error:
        raise ConfigError(
            f"REATTENTION_SLURM_OPTIONS is {text!r}, which no shell reads ({error}); write it as "
            "you would behind srun, e.g. --mem=64G -c 8."
        ) from None


def _sections(workers: int, runner: dict[str, Any], score: dict[str, Any]) -> dict[str, Any]:
    return {
        "infer": {
            "partitioner": {"type": PARTITIONER, "num_worker": workers},
            "runner": {**runner, "task": {"type": INFER_TASK}},
        },
        "eval": {
            "partitioner": {"type": _EVAL_PARTITIONER, "n": _WHOLE_MODEL},
            "runner": {**score, "task": {"type": EVAL_TASK}},
        },
    }


def _slurm_flag() -> bool:
    """Whether this process is `opencompass CONFIG --slurm`."""
    return "--slurm" in sys.argv[1:]


def _flag_sections() -> dict[str, Any]:
    """Sections that `--slurm` can write over.

    OpenCompass merges its own partitioner, runner and tasks over the sections of a configuration
    and keeps every other key of theirs, which its classes then refuse. So only keys stand here
    that SlurmRunner takes, and the classes that it names are answered by ours.
    """
    from reattention_eval.harness.slurm_flag import answer_for_opencompass

    answer_for_opencompass()
    kept = {"extra_command": slurm_options()}
    return {
        "infer": {"partitioner": {}, "runner": dict(kept)},
        "eval": {"partitioner": {"n": _WHOLE_MODEL}, "runner": dict(kept)},
    }


def _number(name: str, default: int, least: int = 1) -> int:
    words = (os.environ.get(name) or str(default)).strip()
    if not re.fullmatch("[0-9]{1,4}", words) or int(words) < least:
        raise ConfigError(f"{name} is {words!r}; give a number from {least} to 9999.")
    return int(words)
