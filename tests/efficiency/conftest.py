"""What results/gpu holds of whole prompts, as rates are made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from reattention_eval.efficiency.e2e.record import read
from reattention_eval.efficiency.fit import Measured, measured

RECORDS = sorted((Path(__file__).parents[2] / "results" / "gpu").glob("e2e-*.json"))


@pytest.fixture(scope="session")
def in_tiers() -> list[Measured]:
    """With the cache wherever it was."""
    return [cell for path in RECORDS for cell in measured(read(path))]


@pytest.fixture(scope="session")
def cells(in_tiers: list[Measured]) -> list[Measured]:
    """With the cache on the device."""
    return [cell for cell in in_tiers if cell.tier == "device"]
