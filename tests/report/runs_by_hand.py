"""Runs of any content, as evaluations leave them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data))


def answers(n: int) -> dict[str, Any]:
    """A predictions file of so many samples."""
    return {str(i): {"prediction": "p"} for i in range(n)}


def leave_cell(
    folder: Path,
    method: str,
    dataset: str,
    details: Sequence[dict[str, Any]],
    *,
    facts: dict[str, Any],
    result: dict[str, Any] | None = None,
    records: Sequence[dict[str, Any]] | None = None,
    model: str = "Tiny",
    budget: int | None = None,
    settings: dict[str, Any] | None = None,
    own: dict[str, Any] | None = None,
) -> None:
    """One model and method on one dataset.

    facts: of the manifest's dataset; result: beside the details, the mean of `score` if left out;
    records: one a detail if left out; settings: of the method; own: of the manifest's model.
    """
    abbr = f"{model}-{method}"
    if result is None:
        result = {"score": sum(d["score"] for d in details) / len(details), "n": len(details)}
    if records is None:
        records = [
            {"index": i, "prediction": str(d.get("prediction", "")), "n_tokens": 100}
            for i, d in enumerate(details)
        ]
    n = facts.get("n", len(details))
    write(folder / "results" / abbr / f"{dataset}.json", {**result, "details": list(details)})
    write(folder / "predictions" / abbr / f"{dataset}.json", answers(n))
    lines = "".join(json.dumps(record) + "\n" for record in records)
    write(folder / "records" / abbr / f"{dataset}.jsonl", lines)
    manifest = {
        "model": {"name": model, "trained_window": 8192, "settings": {}, **(own or {})},
        "method": {"name": method, "budget": budget, "settings": settings or {}},
        "dataset": {"abbr": dataset, "n": n, **facts},
        "environment": [{"versions": {"python": "3.11"}, "gpus": []}],
    }
    write(folder / "records" / abbr / f"{dataset}.manifest.json", manifest)
