"""Samples a minute of an OpenCompass evaluation over growing numbers of GPUs, a process a GPU.

    REATTENTION_SAMPLES=20 python scripts/gpu_samples.py --gpus 1,8

Runs configs/eval_ruler_reattn.py with ReAttention on the embedded model (`reattention-eval prepare
demo`, `prepare ruler`); CONFIG and the variables of docs/benchmarks.md choose another run. Writes
results/gpu/data_parallel.json after each run; a run that it holds of the same commit, device and
choice is kept and not made again. CUDA_VISIBLE_DEVICES, where it is set, names the GPUs to take.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from gpu_common import REPO, head

from reattention_eval.checkpoints import embedded_model_folder
from reattention_eval.harness.run_folder import write_whole

POLL_SECONDS = 0.5


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", nargs="?", default=str(REPO / "configs/eval_ruler_reattn.py"))
    parser.add_argument("--gpus", default="1,8", help="numbers of GPUs, as in 1,4,8")
    parser.add_argument("--work-dir", type=Path, default=Path("outputs/gpu_samples"))
    parser.add_argument("--commit", help="of a copy without Git history")
    parser.add_argument("--out", type=Path, default=REPO / "results/gpu/data_parallel.json")
    asked = parser.parse_args()
    counts = [int(count) for count in asked.gpus.split(",")]
    there = devices()
    if max(counts) > len(there):
        parser.error(f"--gpus asks for {max(counts)} and {len(there)} can be had here; lower it.")
    os.environ.setdefault("REATTENTION_RUN_MODEL", str(embedded_model_folder()))
    os.environ.setdefault("REATTENTION_ONLY_METHODS", "reattention")
    same = about(asked)
    runs = held(asked.out, same)
    for count in counts:
        if count in [found["gpus"] for found in runs]:
            continue
        for found in run(asked.config, there[:count], asked.work_dir / f"gpus-{count}"):
            save(asked.out, same, [*runs, found])  # what there is so far, if this is cut short
        runs.append(found)
        print(json.dumps({k: v for k, v in found.items() if "after" not in k}), flush=True)
    print(json.dumps(efficiency(runs)))
    return int(any(found["exit_status"] for found in runs))


def devices() -> list[str]:
    """GPUs to take; without one a single process runs on the CPU."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(i) for i in range(torch.cuda.device_count() or 1)]


def held(out: Path, same: dict[str, Any]) -> list[dict[str, Any]]:
    """Complete runs of a record that is `same` in all it says of itself."""
    if not out.exists():
        return []
    record = json.loads(out.read_text())
    if any(record.get(name) != value for name, value in same.items()):
        return []
    return [found for found in record["runs"] if found["exit_status"] == 0]


def save(out: Path, same: dict[str, Any], runs: list[dict[str, Any]]) -> None:
    today = datetime.now(timezone.utc).isoformat(timespec="seconds")
    write_whole(out, {**same, "date": today, "runs": runs, "efficiency": efficiency(runs)})


def run(config: str, gpus: list[str], work_dir: Path) -> Iterator[dict[str, Any]]:
    """One evaluation on these GPUs and when each of its samples was finished, as they finish; the
    last one whole."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(gpus)}
    command = [sys.executable, "-m", "opencompass.cli.main", config, "-w", str(work_dir)]
    started = time.time()
    log = work_dir.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    finished: list[float] = []
    records = Finished(work_dir, started)
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
        status = None
        while status is None:
            time.sleep(POLL_SECONDS)
            status = process.poll()
            seconds = round(time.time() - started, 1)
            new = records.new()
            finished += [seconds] * new
            if new or status is not None:
                yield so_far(len(gpus), status, finished, seconds)


def so_far(gpus: int, status: int | None, finished: list[float], seconds: float) -> dict[str, Any]:
    span = finished[-1] - finished[0] if finished else 0.0
    return {
        "gpus": gpus,
        "exit_status": status,
        "samples": len(finished),
        "samples_per_minute": round(60 * (len(finished) - 1) / span, 1) if span else None,
        "seconds": seconds,
        "sample_finished_after_seconds": finished,
    }


class Finished:
    """Counts the records that a run writes; reads each of them once."""

    def __init__(self, work_dir: Path, since: float) -> None:
        """since: when the run began; a work folder may hold older ones."""
        self._work_dir, self._since = work_dir, since
        self._read: dict[Path, int] = {}  # bytes

    def new(self) -> int:
        """Records since the last call."""
        lines = 0
        for path in self._work_dir.glob("*/records/*/*.jsonl"):
            if path.stat().st_mtime <= self._since:
                continue
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                lines += file.read().count(b"\n")
                self._read[path] = file.tell()
        return lines


def efficiency(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Samples a minute and GPU over those of the fewest GPUs, by number of GPUs."""
    base, *others = sorted(runs, key=lambda found: found["gpus"])
    return {
        str(found["gpus"]): round(
            found["samples_per_minute"] / base["samples_per_minute"] * base["gpus"] / found["gpus"],
            3,
        )
        for found in others
        if found["samples_per_minute"] and base["samples_per_minute"]
    }


def about(asked: argparse.Namespace) -> dict[str, Any]:
    return {
        "config": Path(asked.config).name,
        "variables": {
            name: Path(value).name if name.endswith("RUN_MODEL") else value
            for name, value in sorted(os.environ.items())
            if name.startswith(("REATTENTION_ONLY", "REATTENTION_SAMPLES", "REATTENTION_RUN_MODEL"))
        },
        "commit": asked.commit or head(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


if __name__ == "__main__":
    raise SystemExit(main())
