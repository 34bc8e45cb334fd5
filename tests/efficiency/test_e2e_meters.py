"""What `bench e2e` reads beside the clock: power, and the process's own memory."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reattention_eval.efficiency.e2e import meters


def test_energy_is_the_integral_of_power(monkeypatch: pytest.MonkeyPatch) -> None:
    meter, now = meters.PowerMeter(), 0.0
    monkeypatch.setattr(meters.time, "perf_counter", lambda: now)
    for tick in range(100):  # 100 W, then 300 W
        now = tick / 10
        meter.take("100.0" if tick < 50 else " 300.00\n")
        meter.take("[N/A]")
    assert meter.joules(0.0, 9.9) == pytest.approx(5 * 100 + 4.9 * 300, abs=25)
    assert meter.joules(6.0, 8.0) == pytest.approx(600)
    assert meter.joules(6.0, 6.3) is None  # four samples


def test_power_is_read_as_it_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a program that keeps what it writes into a pipe to itself, as C's do."""
    script = tmp_path / "nvidia-smi"
    script.write_text(
        f"#!{sys.executable}\n"
        "import sys, time\n"
        "if not any('loop-ms' in word for word in sys.argv):\n"
        "    print('[N/A]' if any('instant' in word for word in sys.argv) else '200.0')\n"
        "else:\n"
        "    for _ in range(600):\n"
        "        print('200.0')\n"
        "        time.sleep(0.05)\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(meters.card, "_uuid", lambda: "GPU-0")
    with meters.PowerMeter() as meter:
        start = time.perf_counter()
        while len(meter._times) < 8 and time.perf_counter() < start + 20:
            time.sleep(0.02)
        stop = time.perf_counter()
        lines = meter._lines
    assert meter.joules(start, stop) == pytest.approx(200 * (stop - start))
    assert lines is not None and lines._process.returncode is not None


def test_host_memory_is_counted_from_the_run_on() -> None:
    if not meters.restart_host_peak():
        assert meters.host_peak() is not None
        return
    before = meters.host_peak()
    # pages of its own: an allocator may give out what the process already holds
    with mmap.mmap(-1, 256 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
        for page in range(0, len(held), mmap.PAGESIZE):
            held[page] = 1  # written, so that it is there
        assert before and meters.host_peak() >= before + (150 << 20)  # type: ignore[operator]
    assert meters.restart_host_peak()
    assert meters.host_peak() < before + (100 << 20)  # type: ignore[operator]


def test_what_others_take_of_the_host_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processors for ten seconds: 20, of which 8 idle and 2 waiting; 4 of the rest are ours."""
    stat, own = tmp_path / "stat", 1.0
    monkeypatch.setattr(meters, "_STAT", stat)
    monkeypatch.setattr(meters.os, "sysconf", lambda name: 100)
    monkeypatch.setattr(meters.os, "times", lambda: os.times_result((own, 0.0, 0.0, 0.0, 9.0)))
    # user nice system idle iowait irq softirq steal guest guest_nice; guests are in user and nice
    stat.write_text("cpu  1000 0 500 4000 10 0 0 0 700 0\ncpu0 1 1 1 1\n")
    host = meters.HostTime()
    assert host.others() is None  # no time has passed
    stat.write_text("cpu  1600 50 800 4800 210 20 20 10 990 20\ncpu0 1 1 1 1\n")
    own = 5.0
    assert host.others() == pytest.approx((20 - 10 - 4) / 20)
    own = 50.0
    assert host.others() == 0.0
    stat.unlink()
    assert host.others() is None and meters.HostTime().others() is None


def test_a_process_beside_is_seen() -> None:
    """As far as this machine lets it, and not one's own work."""
    host = meters.HostTime()
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(2)
    finally:
        other.kill()
    seen = host.others()  # not waited for yet, so it is none of ours
    other.wait()
    if seen is None:  # a sandbox whose processors are not counted
        return
    assert 0.3 / os.cpu_count() < seen <= 1  # type: ignore[operator]
