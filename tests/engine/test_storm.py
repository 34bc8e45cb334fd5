"""Any sequence of session operations gives what a fresh session gives for the same tokens
(`tests/storm.py`). A case that fails says its seed."""

from __future__ import annotations

import pytest
from storm import run_case


@pytest.mark.parametrize("seed", [1, 5, 11, 13])
def test_any_sequence(seed, tmp_path):
    run_case(seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 500))
def test_many_sequences(seed, tmp_path):
    run_case(seed, tmp_path, operations=14)
