"""How much memory there is, on GPUs and beside them."""

from __future__ import annotations

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
# of a GPU: the CUDA context, and what lies unused between allocations
_CONTEXT, _FRAGMENTS = 600 << 20, 0.02
# where a container or a SLURM job may be held to less than the machine has
_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


def accelerator_memory() -> list[tuple[int, int]]:
    """(free, total) bytes of every visible GPU, which this call gives a CUDA context."""
    import torch

    if not torch.cuda.is_available():
        return []
    return [torch.cuda.mem_get_info(i) for i in range(torch.cuda.device_count())]


def usable(total: int) -> int:
    """Bytes that tensors can take of a GPU of `total` bytes that nobody else uses."""
    return max(0, int(total * (1 - _FRAGMENTS)) - _CONTEXT)


def main_memory() -> int | None:
    """Bytes that this process may still take; None where the system does not say."""
    known = [left for left in (_available(), *(_left(*pair) for pair in _LIMITS)) if left]
    return min(known) if known else None


def _available() -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _left(limit: Path, used: Path) -> int | None:
    try:
        return max(0, int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):  # "max" means no limit
        return None
