"""A cell as a person reads it while it is measured."""

from __future__ import annotations

from typing import Any

from reattention_eval.efficiency.e2e.results import busy_share
from reattention_eval.machine_memory import GIB


def said(cell: dict[str, Any], warm: bool = False) -> str:
    """A cell's last run, or why there is none."""
    for why in ("out_of_memory", "failed"):
        if cell.get(why):
            return f"{why.replace('_', ' ')}: {cell[why]}"
    if warm or not cell["runs"]:
        return "done"
    run = cell["runs"][-1]
    parts = [f"TTFT {run['ttft_seconds']:.3f} s"]
    if "tpot_seconds" in run:
        parts.append(f"{1000 * run['tpot_seconds']:.2f} ms a token")
    if "peak_bytes" in run:
        parts.append(
            f"peak {run['peak_bytes'] / GIB:.2f} GiB, {run['above_bytes'] / GIB:.2f} above weights "
            "and cache"
        )
    if "host_bytes" in run:
        pageable = "" if run.get("host_pinned", True) else ", not pinned"
        parts.append(f"{run['host_bytes'] / GIB:.2f} GiB of the cache in host memory{pageable}")
        if taken := run.get("host_taken_bytes"):
            seconds = run["host_taken_seconds"]
            parts.append(
                f"{taken / GIB:.2f} GiB of it taken meanwhile, {seconds:.1f} s of the host"
            )
    if busy := busy_share(run):
        parts.append(f"beside other work on {busy:.0%} of the host")
    return ", ".join(parts)
