"""Where a prompt's time goes: kernels by what they are for, and the time between them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

from reattention_kernels.bench import timing

# the first that finds itself in a kernel's name; what none does is "other"
PARTS = (
    ("selection", r"best_blocks|rescore|votes|histogram|winning|mark_kernel|select_few|"
                  r"list_kernel|finish_kernel"),
    ("view attention", r"causal_attention|join_parts|join_splits|decode_view|decode_whole|flash|"
                       r"fmha|attention"),
    ("view", r"gather_view|fetch_values"),
    ("rotation", r"rotate_"),
    ("norms", r"rms_norm"),
    ("linear layers", r"gemm|gemv|nvjet|cutlass|cublas|splitK|xmma"),
    ("MLP's products", r"silu|MulFunctor"),
)  # fmt: skip
INSIDE = ("selection", "view attention", "linear layers", "MLP's products")  # bar E8
KEPT = 40  # names of kernels in a record


def part_of(name: str) -> str:
    """Of a kernel's name."""
    return next((part for part, found in PARTS if re.search(found, name)), "other")


def shares(kernels: Iterable[tuple[str, int, float]], milliseconds: float) -> dict[str, Any]:
    """What a record keeps.

    Args:
        kernels: (name, calls, milliseconds) of each.
        milliseconds: of the whole prompt, without a profiler.
    """
    kernels = sorted(kernels, key=lambda kernel: -kernel[2])
    parts: dict[str, float] = {}
    for name, _, taken in kernels:
        part = part_of(name)
        parts[part] = parts.get(part, 0.0) + taken
    return {
        "ms": milliseconds,
        "kernels_ms": sum(parts.values()),
        "outside_ms": milliseconds - sum(parts.get(part, 0.0) for part in INSIDE),
        "parts_ms": parts,
        "kernels": [
            {"name": name[:120], "part": part_of(name), "calls": calls, "ms": taken}
            for name, calls, taken in kernels[:KEPT]
        ],
    }


def matmul_ceiling() -> dict[str, float]:
    """What the card multiplies at, for bars of a prompt's work: floating-point operations and their
    milliseconds."""
    taken = timing.compare({"matmul": timing.matmul()})
    torch.cuda.empty_cache()
    return {"ceiling_ms": taken["matmul"], "ceiling_work": 2.0 * timing.MATMUL_SIZE**3}


def measure_parts(read: Callable[[], object]) -> dict[str, Any]:
    """`read` is called three times: warm, timed, and with its kernels watched. On a GPU."""
    from torch.profiler import ProfilerActivity, profile

    read()
    torch.cuda.synchronize()
    start = time.perf_counter()
    read()
    torch.cuda.synchronize()
    whole = 1000 * (time.perf_counter() - start)
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        read()
        torch.cuda.synchronize()
    return shares(
        (
            (event.key, event.count, event.self_device_time_total / 1000)
            for event in seen.key_averages()
        ),
        whole,
    )
