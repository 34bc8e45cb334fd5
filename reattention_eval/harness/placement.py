"""How many GPUs a model's task asks for, by the size of its weights."""

from __future__ import annotations

import os
from typing import Any

from reattention_eval.errors import ConfigError
from reattention_eval.machine_memory import GIB

GPUS_VARIABLE = "REATTENTION_GPUS"
SPREAD_VARIABLE = "REATTENTION_SPREAD"
MEMORY_VARIABLE = "REATTENTION_GPU_MEMORY"
# weights of two bytes a parameter, and a quarter on top for cache and workspace
_BYTES_PER_PARAMETER = 2 * 1.25
_MOST_GPUS = 8  # of one machine


def placement(billions: float) -> dict[str, Any]:
    """`run_cfg` and, on several GPUs, `device_map` or `tensor_parallel` of a model.

    The fewest GPUs of this machine, a power of two, whose memory holds the weights in 16 bits and
    a quarter more; all of them if that is not enough, none where there are none. REATTENTION_GPUS
    replaces the number, for long prompts. Where a machine without GPUs writes the jobs of others,
    REATTENTION_GPU_MEMORY says how many GiB each of theirs has. REATTENTION_SPREAD says what is
    spread: `layers`, in one process (the default), or `heads`, a process a GPU (tensor parallel).

    Raises:
        ConfigError: a variable is no number, or no such way.
    """
    words = os.environ.get(GPUS_VARIABLE, "").strip()
    if words and not words.isdecimal():
        raise ConfigError(f"{GPUS_VARIABLE} is {words!r}; give the number of GPUs of a task.")
    gpus = int(words) if words else _fewest(billions * 1e9 * _BYTES_PER_PARAMETER)
    how = os.environ.get(SPREAD_VARIABLE, "").strip() or "layers"
    ways: dict[str, dict[str, Any]] = {
        "layers": {"device_map": "auto"},
        "heads": {"tensor_parallel": gpus},
    }
    if how not in ways:
        raise ConfigError(f"{SPREAD_VARIABLE} is {how!r}; there are: {', '.join(ways)}.")
    return {"run_cfg": {"num_gpus": gpus}, **(ways[how] if gpus > 1 else {})}


def _fewest(size: float) -> int:
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    memory = [torch.cuda.get_device_properties(i).total_memory for i in range(there)]
    if not there and (elsewhere := _memory_elsewhere()):
        there, memory = _MOST_GPUS, [elsewhere] * _MOST_GPUS
    gpus = 1
    while gpus < there and sum(memory[:gpus]) < size:
        gpus *= 2
    return min(gpus, there)


def _memory_elsewhere() -> int:
    """Bytes of a GPU of the machines that tasks are submitted to; 0 where nobody says."""
    words = os.environ.get(MEMORY_VARIABLE, "").strip()
    try:
        return int(float(words or 0) * GIB)
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{MEMORY_VARIABLE} is {words!r}; give the GiB of one GPU, for example 80."
        ) from None
