"""How far a running evaluation is, seen from its files."""

from __future__ import annotations

from pathlib import Path

from reattention_eval.json_text import read_object
from reattention_eval.report.records import read_records


def progress_line(work_dir: Path) -> str:
    """`MODEL on DATASET: 3 of 9 prompts` for the dataset begun last; empty before the first."""
    manifests = list((work_dir / "records").glob("*/*.manifest.json"))
    if not manifests:
        return ""
    try:
        newest = max(manifests, key=lambda path: path.stat().st_mtime)
        total = read_object(newest)["dataset"]["n"]
        dataset = newest.name.removesuffix(".manifest.json")
        done = len(read_records(newest.with_name(f"{dataset}.jsonl")))
    except (ValueError, KeyError, TypeError, OSError):
        return ""  # a file that is being written; the report says what is wrong with it
    return f"{newest.parent.name} on {dataset}: {done} of {total} prompts"
