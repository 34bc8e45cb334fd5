"""What scripts/gpu_check.sh found, as results/gpu/<date>-<device>.json.

    python scripts/gpu_record.py --tests PARTS/*.xml --sanitizers memcheck racecheck

Needs the bench's records of the same commit beside it (bars.json, others.json).
"""

from __future__ import annotations

import argparse
import json
import platform
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
import transformers
import triton

from reattention_kernels.bench import record

RESULTS = record.REPO / "results" / "gpu"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tests", nargs="+", type=Path, required=True, help="JUnit files")
    parser.add_argument("--sanitizers", nargs="*", default=[], help="those that found nothing")
    parser.add_argument("--commit", help="of a copy without Git history")
    asked = parser.parse_args()
    commit, source = record.source(asked.commit)
    device = torch.cuda.get_device_name()
    found = {
        "device": device,
        "gpus": torch.cuda.device_count(),
        "commit": commit,
        "source": source,
        "date": record.today(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "triton": triton.__version__,
            "transformers": transformers.__version__,
        },
        "tests": tests(asked.tests),
        "sanitizers_without_a_finding": asked.sanitizers,
        "bars": {
            entry["id"]: round(entry["value"], 4)
            for entry in of_this_run("bars.json", device, commit)
        },
        "median_ms": {
            entry["id"].removeprefix("others "): entry["ms"]
            for entry in of_this_run("others.json", device, commit)
        },
    }
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    out = RESULTS / f"{found['date']}-{name}.json"
    out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"written: {out}")


def tests(files: list[Path]) -> dict[str, Any]:
    """Counts over JUnit files, and what was skipped for which reason."""
    cases = [case for file in files for case in ElementTree.parse(file).iter("testcase")]
    skipped = [skip.get("message", "") for case in cases for skip in case.iter("skipped")]
    return {
        "passed": len(cases) - len(skipped),
        "skipped": {reason: skipped.count(reason) for reason in sorted(set(skipped))},
        "seconds_in_sum": round(sum(float(case.get("time", 0)) for case in cases)),
    }


def of_this_run(name: str, device: str, commit: str) -> list[dict[str, Any]]:
    return [
        entry
        for entry in record.load(RESULTS / name)
        if (entry["device"], entry["commit"]) == (device, commit)
    ]


if __name__ == "__main__":
    main()
