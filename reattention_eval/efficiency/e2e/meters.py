"""What a run takes besides time: energy, and of the host memory and what others leave of it."""

from __future__ import annotations

import os
import time
from bisect import bisect_left, bisect_right
from pathlib import Path

from reattention_kernels.bench import card

FIELDS = ("power.draw.instant", "power.draw")  # the second one is a mean over a second
SAMPLE_MS = 100
LEAST_SAMPLES = 5  # of an interval whose energy is told
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_STAT = Path("/proc/stat")
_IDLE = (3, 4)  # of a line of it: idle, and waiting for a disk
_GUESTS = 8  # from here on what stands before is counted once more


class PowerMeter:
    """nvidia-smi's power draw while the block runs, for energy as its integral."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._watts: list[float] = []
        self._lines: card.Lines | None = None

    def __enter__(self) -> PowerMeter:
        for field in FIELDS:
            if _number(card.nvidia_smi([f"--query-gpu={field}"])) is not None:
                self._lines = card.Lines(field, SAMPLE_MS, self.take)
                break
        return self

    def __exit__(self, *error: object) -> None:
        if self._lines is not None:
            self._lines.end()

    def take(self, line: str) -> None:
        """A line of nvidia-smi, watts, as it comes."""
        watts = _number(line)
        if watts is not None:
            self._watts.append(watts)
            self._times.append(time.perf_counter())

    def joules(self, start: float, stop: float) -> float | None:
        """Between two times of `time.perf_counter`; None where too few samples lie there."""
        times = self._times[:]
        first, last = bisect_left(times, start), bisect_right(times, stop)
        if last - first < LEAST_SAMPLES:
            return None
        watts = self._watts[first:last]
        # each sample stands for the time nearer to it than to the others
        edges = [
            (a + b) / 2 for a, b in zip(times[first:last], times[first + 1 : last], strict=False)
        ]
        cuts = [start, *edges, stop]
        return sum(w * (b - a) for w, a, b in zip(watts, cuts, cuts[1:], strict=False))


class HostTime:
    """Of the host's processors, from here on."""

    def __init__(self) -> None:
        self._start = _processor_seconds()

    def others(self) -> float | None:
        """The share of all processors that other processes kept busy; None where the system does
        not say."""
        now = _processor_seconds()
        if self._start is None or now is None:
            return None
        every, idle, own = (b - a for a, b in zip(self._start, now, strict=True))
        return max(0.0, every - idle - own) / every if every > 0 else None


def _processor_seconds() -> tuple[float, float, float] | None:
    """Of all processors, idle ones, and this process with the children that ended."""
    try:
        words = _STAT.read_text().split("\n", 1)[0].split()
        ticks = [int(word) for word in words[1 : 1 + _GUESTS]]
        second = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None
    times = os.times()
    own = times.user + times.system + times.children_user + times.children_system
    return sum(ticks) / second, sum(ticks[i] for i in _IDLE) / second, own


def restart_host_peak() -> bool:
    """`host_peak` counts from here on; False where the system does not let it."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def host_peak() -> int | None:
    """Bytes of main memory that this process held at most."""
    try:
        lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _number(line: str | None) -> float | None:
    try:
        return float((line or "").strip())
    except ValueError:  # [N/A]
        return None
