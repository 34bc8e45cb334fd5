"""How much memory there is, on GPUs and beside them."""

from __future__ import annotations

import math
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

from reattention_eval.errors import ConfigError

if TYPE_CHECKING:  # commands that need no torch start without it
    import torch

GIB, MIB = 2**30, 2**20  # bytes
SPARE_BYTES = 512 << 20  # of main memory, left to everything else
HOST_VARIABLE = "REATTENTION_HOST_MEMORY"
_MEMINFO = Path("/proc/meminfo")
_STATM = Path("/proc/self/statm")  # pages; the first number is of the address space
# of a GPU: the CUDA context, and what lies unused between allocations
_CONTEXT, _FRAGMENTS = 600 << 20, 0.02
_CGROUPS, _CGROUP_FILES = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
# where a container or a SLURM job may be held to less than the machine has: limit, use, and what of
# the use are files that the system gives up; version 2, then version 1
_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def accelerator_memory() -> list[tuple[int, int]]:
    """(free, total) bytes of every visible GPU, which this call gives a CUDA context."""
    import torch

    if not torch.cuda.is_available():
        return []
    return [torch.cuda.mem_get_info(i) for i in range(torch.cuda.device_count())]


def usable(total: int) -> int:
    """Bytes that tensors can take of a GPU of `total` bytes that nobody else uses."""
    return max(0, int(total * (1 - _FRAGMENTS)) - _CONTEXT)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that tensors may still take of a device: on a GPU what the driver has left, and what
    PyTorch holds and nobody uses; of main memory all but a little, since a process that takes the
    last of it is killed. None where that is not known."""
    import torch

    if device.type == "cpu":
        left = main_memory()
        return None if left is None else max(0, left - SPARE_BYTES)
    if device.type != "cuda":
        return None
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + held


def shared_gpu() -> tuple[int, int] | None:
    """Bytes that this process and others hold of the fullest GPU that it uses.

    None where nobody else is there. What PyTorch does not count is this process's own context or
    others'; one as large as two contexts is needed to tell.
    """
    import torch

    if not torch.cuda.is_initialized():
        return None
    used = [i for i in range(torch.cuda.device_count()) if torch.cuda.memory_reserved(i)]
    left = {i: torch.cuda.mem_get_info(i) for i in used}
    fullest = min(used, key=lambda i: left[i][0], default=None)
    if fullest is None:
        return None
    free, total = left[fullest]
    own = torch.cuda.memory_reserved(fullest) + _CONTEXT
    others = total - free - own
    return (own, others) if others > _CONTEXT else None


def held_by_others() -> int:
    """Bytes of the fullest GPU that this process uses that others hold; 0 where nobody does."""
    shared = shared_gpu()
    return shared[1] if shared else 0


def is_host_full(error: BaseException) -> bool:
    """Whether main memory took no more: what Python and NumPy raise, or PyTorch's CPU allocator."""
    full = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return full or isinstance(error, MemoryError)


def main_memory() -> int | None:
    """Bytes that this process may still take; None where the system does not say.

    A virtual machine may begin with a part of its memory and get the rest as it is used:
    REATTENTION_HOST_MEMORY says how many GiB it will have.

    Raises:
        ConfigError: the variable is no number of GiB.
    """
    every = _available(), _addresses(), *map(_left, *_groups())
    known = [left for left in every if left is not None]
    return min(known) if known else None


def _available() -> int | None:
    stated = _stated()
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        left, all_of_it = (
            int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal")
        )
    except (OSError, KeyError, ValueError):
        return None
    return left + max(0, stated - all_of_it)  # and what is yet to come


def _addresses() -> int | None:
    """What `ulimit -v` leaves, as some batch systems set it."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        used = int(_STATM.read_text().split()[0]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return None
    return max(0, limit - used)


def _stated() -> int:
    """Bytes that the machine is said to have; 0 where nobody says."""
    words = os.environ.get(HOST_VARIABLE, "").strip()
    try:
        stated = float(words or 0)
    except ValueError:
        stated = math.nan
    if not 0 <= stated < math.inf:
        raise ConfigError(
            f"{HOST_VARIABLE} is {words!r:.80}; give the GiB of main memory that this machine has "
            "or grows to, for example 128."
        )
    return int(stated * GIB)


def _groups() -> tuple[list[Path], list[tuple[str, str, str]]]:
    """Folders of the control groups that this process is in, and of those around them; the files
    of each."""
    found = {_CGROUP_FILES: _V2, _CGROUP_FILES / "memory": _V1}  # a container's own, as it sees it
    try:
        lines = [line.split(":", 2) for line in _CGROUPS.read_text().splitlines()]
    except OSError:
        lines = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        version_1 = "memory" in controllers.split(",")
        if version_1 or not controllers:
            root = _CGROUP_FILES / "memory" if version_1 else _CGROUP_FILES
            group = root / path.lstrip("/")
            for folder in (group, *group.parents):
                if folder.is_relative_to(root):
                    found[folder] = _V1 if version_1 else _V2
    return list(found), list(found.values())


def _left(folder: Path, names: tuple[str, str, str]) -> int | None:
    limit, used, given_up = names
    try:
        left = int((folder / limit).read_text()) - int((folder / used).read_text())
    except (OSError, ValueError):  # "max" means no limit
        return None
    try:
        lines = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        left += int(dict(lines)[given_up])
    except (OSError, ValueError, KeyError):
        pass
    return max(0, left)
