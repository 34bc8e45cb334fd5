"""Is the GPU ours alone, and does it run at full speed? What nvidia-smi says, read as a sceptic.

Another process on the card, or a card that is slowed down by heat, makes every number a wrong one,
and ratios too: with a neighbour a decode kernel once "reached" 2.05 of the copy bandwidth.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

# bits of clocks_event_reasons that mean "slower than it should be" (NVML, nvml.h); the power limit
# (0x4) is not among them: a card that multiplies matrices is meant to run there
SLOWED = {
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
# a CUDA context of our own, and what the driver holds
OWN_MEMORY = 3 << 29
BUSY_PERCENT = 10
SAMPLE_MS, PATIENCE = 500, 3
Ask = Callable[[list[str]], str | None]


def nvidia_smi(words: list[str]) -> str | None:
    """What it prints; None where there is none, or it does not know a field."""
    command = ["nvidia-smi", f"--id={_uuid()}", *words, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _uuid() -> str:
    return f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"


def facts(ask: Ask = nvidia_smi) -> dict[str, Any]:
    """Which card this is, by its own number, and its driver."""
    return {"uuid": _uuid(), "driver": ask(["--query-gpu=driver_version"])}


def sharing(ask: Ask = nvidia_smi) -> list[str]:
    """Signs of other processes on the card; to be asked while this process computes nothing."""
    free, total = torch.cuda.mem_get_info()
    foreign = total - free - torch.cuda.memory_reserved()
    for _ in range(PATIENCE):  # a process that has just ended is still seen for a second
        listed = ask(["--query-compute-apps=pid,process_name"])
        busy = ask(["--query-gpu=utilization.gpu"])
        found = signs_of_sharing(foreign, listed, busy)
        if not found:
            break
        time.sleep(1)
    return found


def signs_of_sharing(foreign: int, listed: str | None, busy: str | None) -> list[str]:
    """`foreign`: bytes of the card that are not ours; the rest as nvidia-smi prints it."""
    found = []
    # inside a container a process has another number outside, so that they are only counted
    processes = [line for line in (listed or "").splitlines() if line.strip()]
    if len(processes) > 1:
        found.append(f"{len(processes)} processes on the card ({'; '.join(processes)[:200]})")
    if foreign > OWN_MEMORY:
        found.append(f"{foreign / 2**30:.1f} GiB of the card are held by others")
    if busy and busy.isdigit() and int(busy) > BUSY_PERCENT:
        found.append(f"the card is {busy} % busy while this process computes nothing")
    return found


def slowed(reasons: str) -> list[str]:
    """What a line `clocks_event_reasons.active` of nvidia-smi (hexadecimal) says is wrong."""
    try:
        bits = int(reasons.strip(), 16)
    except ValueError:  # [N/A]
        return []
    return [name for bit, name in SLOWED.items() if bits & bit]


class Lines:
    """Values of a field of nvidia-smi, every so many milliseconds, until `end`; `take` is given
    each as a line as soon as it is there, in a thread of its own."""

    def __init__(self, field: str, milliseconds: int, take: Callable[[str], None]) -> None:
        words = ["nvidia-smi", f"--id={_uuid()}", f"--query-gpu={field}"]
        words += ["--format=csv,noheader,nounits", f"--loop-ms={milliseconds}"]
        self._terminal, own = os.openpty()  # into a pipe it might write block by block
        self._process = subprocess.Popen(words, stdout=own)
        os.close(own)
        threading.Thread(target=self._read, args=(take,), daemon=True).start()

    def end(self) -> None:
        self._process.terminate()
        self._process.wait()

    def _read(self, take: Callable[[str], None]) -> None:
        ended = contextlib.suppress(OSError)  # so a terminal says it
        with ended, open(self._terminal, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                take(line)


class Watch:
    """Samples the card while the block runs.

    `known` is False where nvidia-smi cannot say; then only the memory of the card was looked at.
    """

    def __init__(self) -> None:
        self.known = False
        self._seen: dict[str, None] = {}
        self._lines: Lines | None = None

    def __enter__(self) -> Watch:
        for field in ("clocks_event_reasons.active", "clocks_throttle_reasons.active"):
            line = nvidia_smi([f"--query-gpu={field}"])
            if line is None:
                continue
            self.known = True
            self.look(line)
            self._lines = Lines(field, SAMPLE_MS, self.look)
            break
        return self

    def __exit__(self, *error: object) -> None:
        if self._lines is not None:
            self._lines.end()

    def look(self, line: str) -> None:
        self._seen |= dict.fromkeys(slowed(line))

    def problems(self) -> list[str]:
        """What was seen so far, other processes that are there now included."""
        listed = nvidia_smi(["--query-compute-apps=pid,process_name"]) if self.known else None
        return [*self._seen, *signs_of_sharing(0, listed, None)]
