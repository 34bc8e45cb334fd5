"""A needle run's directory, empty and whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from needle_run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "20260101_000000")


@pytest.fixture
def whole(run: Run) -> Run:
    for length, full, ours in ((4096, [100.0] * 3, [100.0] * 3), (12288, [0.0] * 3, [100, 0, 50])):
        run.cell("full", length, full)
        run.cell("reattention", length, list(map(float, ours)))
    return run
