"""What configs/eval_real_small.py runs, by what the machine can do in reasonable time."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reattention_eval.benchmarks import find_benchmark
from reattention_eval.datasets.data_dir import data_dir
from reattention_eval.errors import ConfigError
from reattention_eval.harness.compose.machine import gpus_per_task

VARIABLE = "REATTENTION_REAL_SIZE"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Size:
    needle: Mapping[str, Any]
    ruler: Mapping[str, Any]
    leval: Mapping[str, Any]


_LENGTHS = [4096, 8192, 16384, 32768, 65536, 131072]
_SIZES = {
    "cpu": _Size(
        needle={"lengths": [4096, 10240], "depths": [10, 30, 50, 70, 90], "repeats": 1},
        ruler={
            "lengths": [4096, 10240],
            "tasks": ["niah_single_2", "niah_multikey_1", "vt", "qa_1"],
            "samples": 3,
        },
        # documents of some 3,500 tokens: nothing to cut for any method
        leval={"tasks": ["tpo", "multidoc_qa"], "samples": 8, "cut_at_window": False},
    ),
    "gpu": _Size(
        needle={"lengths": _LENGTHS, "depths": list(range(0, 101, 10)), "repeats": 2},
        ruler={"lengths": _LENGTHS, "tasks": "all", "samples": 20},
        leval={"tasks": "all", "samples": 50},
    ),
}


def real_small_plans() -> list[dict[str, Any]]:
    """Needles, RULER and L-Eval: "cpu" (some 40 minutes on two cores) or "gpu" (all tasks to 128K).

    REATTENTION_REAL_SIZE chooses; unset, it is "gpu" where there is one. L-Eval's tasks run where
    their files are on this machine; a sentence in the log says which are left out.

    Raises:
        ConfigError: no such size.
    """
    name = os.environ.get(VARIABLE, "").strip() or ("gpu" if gpus_per_task() else "cpu")
    if name not in _SIZES:
        raise ConfigError(f"{VARIABLE} is {name!r}; choose from {', '.join(_SIZES)}.")
    size = _SIZES[name]
    plans: list[dict[str, Any]] = [
        {"benchmark": "needle", "haystack": "essays", **size.needle},
        {"benchmark": "ruler", **size.ruler},
    ]
    if tasks := _present(size.leval["tasks"]):
        plans.append({"benchmark": "leval", "lengths": [31500], **size.leval, "tasks": tasks})
    return plans


def _present(tasks: str | Sequence[str]) -> list[str]:
    """Those of L-Eval's tasks whose files are here."""
    asked = find_benchmark("leval").groups()[tasks] if isinstance(tasks, str) else tasks
    found = [task for task in asked if (data_dir() / "leval" / f"{task}.jsonl").is_file()]
    if absent := [task for task in asked if task not in found]:
        logger.warning(
            f"L-Eval's {', '.join(absent)} are left out: no file in {data_dir() / 'leval'}. Fetch "
            "them with: reattention-eval prepare leval"
        )
    return found
