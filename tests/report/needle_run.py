"""The files of a needle run, written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runs_by_hand import answers, write

SETTINGS = {"full": (None, {}), "reattention": (4096, {"local_size": 1024})}


class Run:
    """A run's directory, cell by cell."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def cell(
        self, method: str, length: int, right: list[float], *, abbr: str | None = None,
        settings: dict[str, Any] | None = None, n_tokens: int | None = None, selected: int = 60,
    ) -> tuple[str, str]:  # fmt: skip
        """One result: `right` are the accuracies at depths 0, 50, 100."""
        budget, own = SETTINGS[method]
        model, dataset = abbr or f"m-{method}", f"needle-{length}"
        details = [
            {"depth": d, "length": length, "accuracy": a, "answer_nll": 2.0 - a / 100}
            for d, a in zip((0, 50, 100), right, strict=True)
        ]
        accuracy = sum(right) / 3
        result = {"accuracy": accuracy, "answer_nll": 2.0 - accuracy / 100, "n": 3}
        write(self.path("results", model, f"{dataset}.json"), {**result, "details": details})
        write(self.path("predictions", model, f"{dataset}.json"), answers(3))
        records = [
            {
                "index": i, "n_tokens": n_tokens or length, "prefill_seconds": 1.0 + i, "n_cut": 0,
                "must_select": bool(budget and length > budget), "mean_view": 10.0,
                "layer_steps_selected": selected if budget and length > budget else 0,
            }
            for i in range(3)
        ]  # fmt: skip
        write(
            self.path("records", model, f"{dataset}.jsonl"),
            "".join(json.dumps(record) + "\n" for record in records),
        )
        write(
            self.path("records", model, f"{dataset}.manifest.json"),
            {
                "model": {"name": "Tiny", "trained_window": 8192},
                "method": {"name": method, "budget": budget, "settings": settings or own},
                "dataset": {"abbr": dataset, "n": 3, "length": length},
            },
        )
        return model, dataset

    def path(self, *parts: str) -> Path:
        return self.folder.joinpath(*parts)


def expected(run: Run) -> list[tuple[str, str]]:
    return [(f"m-{m}", f"needle-{n}") for m in ("full", "reattention") for n in (4096, 12288)]
