"""Where `reattention-eval ask` computes, and whether the text fits there."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from reattention_eval.cache import AUTO, DEVICE
from reattention_eval.checkpoints.load import pick_dtype
from reattention_eval.cli.device import checked_device
from reattention_eval.efficiency import (
    ModelShape,
    Placement,
    accelerator_memory,
    largest_length,
    main_memory,
    plan_memory,
    read_shape,
    tiers_of,
    usable,
)
from reattention_eval.efficiency.auto_plan import plan_auto
from reattention_eval.errors import ConfigError, DataError
from reattention_eval.machine_memory import GIB
from reattention_eval.methods import Method


def pick_device(name: str | None) -> str:
    """As transformers' device_map takes it."""
    spread = name == "auto"  # over all GPUs
    device = checked_device("cuda" if spread else name, "cuda, cuda:1, cpu or auto")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f"{device} is not here: {count} CUDA devices are visible.")
    return "auto" if spread else str(device)


def check_room(
    file: Path,
    name: str,
    method: Method,
    tokens: int,
    behind: int,
    dtype: str,
    device: str,
    save: Path | None,
    cache: str = DEVICE,
) -> None:
    """Raise DataError where memory, or the disk to save on, is planned to be too small.

    Args:
        file: what is read, `tokens` tokens.
        behind: tokens that come behind it.
        device: as `pick_device` gave it.
        save: where it is to be saved.
        cache: where keys and values are; "auto": anywhere.
    """
    try:
        shape = read_shape(name)
    except ConfigError:
        return  # a model that is not planned
    dtype = str(pick_dtype(dtype)).removeprefix("torch.")
    gpus = torch.cuda.device_count() if device == "auto" else 1
    placement = Placement(gpus=gpus, dtype=dtype, on_gpu=device != "cpu")
    memory, host = _memory(device), None if device == "cpu" else main_memory()

    # a machine without a GPU has one memory for both
    tiers = tiers_of(method) if placement.on_gpu else (DEVICE,)
    plans = {
        tier: plan_memory(shape, method, tokens + behind, placement, tier=tier) for tier in tiers
    }
    fitting = [
        tier
        for tier, plan in plans.items()
        if (memory is None or plan.total <= memory) and (host is None or plan.host <= host)
    ]
    wanted = (*tiers, AUTO) if cache == AUTO else (cache,) if cache in tiers else tiers[-1:]
    if len(tiers) > 1 and memory is not None and not fitting:
        auto = plan_auto(shape, method, tokens + behind, placement, memory)
        if auto and auto.plan.total <= memory and (host is None or auto.plan.host <= host):
            fitting = [AUTO]
    if memory is not None and not set(fitting) & set(wanted):
        last = tiers[-1] if cache == AUTO else wanted[-1]
        least = plans[last]
        most = largest_length(shape, method, placement, memory, tier=last, host=host)
        where = "a GPU" if placement.on_gpu else "memory"
        needs, free = [f"{least.total / GIB:.1f} GiB of {where}"], [f"{memory / GIB:.1f}"]
        if least.host and host is not None:
            needs.append(f"{least.host / GIB:.1f} of main memory")
            free.append(f"{host / GIB:.1f}")
        instead = f"; all of it fits with --cache {fitting[0]}" if fitting else ""
        raise DataError(
            f"{file} is {tokens:,} tokens, for which {name} in {dtype} takes "
            f"{' and '.join(needs)}, and {' and '.join(free)} GiB are free: at most "
            f"{max(0, most - behind):,} tokens fit. Give a part of it, fewer --max-new-tokens, "
            f"or a smaller model{instead}."
        )
    if save:
        _check_disk(save, shape, tokens * placement.itemsize)


def _check_disk(folder: Path, shape: ModelShape, values: int) -> None:
    size = 2 * shape.layers * shape.kv_heads * shape.head_dim * values
    there = next(p for p in folder.expanduser().absolute().parents if p.is_dir())
    free = shutil.disk_usage(there).free
    if size > free:
        raise DataError(
            f"saving takes {size / GIB:.1f} GiB and the disk of {there} has {free / GIB:.1f} GiB "
            "left; make room, or save on another disk."
        )


def _memory(device: str) -> int | None:
    """Bytes that a model and its cache may take of memory, or of each GPU."""
    if device == "cpu":
        return main_memory()
    gpus = accelerator_memory()
    at = None if device == "auto" else torch.device(device).index
    free = [free for i, (free, _) in enumerate(gpus) if at in (None, i)]
    return usable(min(free) if device == "auto" else free[0])
