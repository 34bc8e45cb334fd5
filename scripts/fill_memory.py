"""Main memory of a virtual machine that gets it as it is used: all of it is there behind this, for
programs that look how much there is, and pin it.

    python scripts/fill_memory.py GIB

Takes memory until so many GiB are free with what it holds, and gives that back. Where they do not
come it stops with a little left free, and says how much there is.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

GIB = 2**30
STEP = GIB // 4
LEFT = 3 * STEP  # free to the others at any time
PATIENCE = 15.0  # seconds without growth


def memory(name: str) -> int:
    """Bytes, by a line of /proc/meminfo."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def fill(wanted: int, step: int = STEP) -> bool:
    """Whether `wanted` bytes were free, with what was taken for it."""
    held: list[bytearray] = []
    waited = 0.0
    while (free := memory("MemAvailable")) + step * len(held) < wanted:
        if free - step > LEFT:
            held.append(bytearray(b"\1") * step)  # every page of it is written
            waited = 0.0
        elif waited < PATIENCE:
            time.sleep(0.5)
            waited += 0.5
        else:
            return False
    return True


def main() -> None:
    wanted, before = float(sys.argv[1]), memory("MemTotal")
    there = fill(int(wanted * GIB))
    free, after = (memory(name) / GIB for name in ("MemAvailable", "MemTotal"))
    print(
        f"main memory: {free:.0f} GiB free of {after:.0f} ({before / GIB:.0f} before)"
        + ("" if there else f"; {wanted:g} did not come")
    )


if __name__ == "__main__":
    main()
