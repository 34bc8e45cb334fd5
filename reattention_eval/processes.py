"""Processes of this machine: whether one that was met before still lives."""

from __future__ import annotations

import os
from pathlib import Path


def born(pid: int) -> str:
    """When the process began, in the kernel's ticks, so that another one under its number is not
    taken for it; empty where the system does not tell."""
    return _stat(pid)[1]


def lives(pid: int, when: str = "") -> bool:
    """Whether the process runs, and is the one that was born `when` where that is known.

    One that has ended and that nobody has asked for its status yet does not.
    """
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    state, now = _stat(pid)
    return state not in ("Z", "X") and (not when or not now or when == now)


def _stat(pid: int) -> tuple[str, str]:
    """State and start of a process as Linux has them (proc_pid_stat(5)); empty elsewhere."""
    try:
        # its name stands in parentheses and may hold anything
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return fields[0], fields[19]
    except (OSError, IndexError):
        return "", ""
