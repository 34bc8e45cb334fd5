"""How far a running evaluation is, seen from its files."""

from __future__ import annotations

import json
from pathlib import Path

from reattention_eval.report.records import read_records


def progress_line(work_dir: Path) -> str:
    """`MODEL on DATASET: 3 of 9 prompts` for the dataset begun last; empty before the first."""
    manifests = list((work_dir / "records").glob("*/*.manifest.json"))
    if not manifests:
        return ""
    newest = max(manifests, key=lambda path: path.stat().st_mtime)
    try:
        total = json.loads(newest.read_text(encoding="utf-8"))["dataset"]["n"]
    except (ValueError, KeyError, OSError):
        return ""
    dataset = newest.name.removesuffix(".manifest.json")
    done = len(read_records(newest.with_name(f"{dataset}.jsonl")))
    return f"{newest.parent.name} on {dataset}: {done} of {total} prompts"
