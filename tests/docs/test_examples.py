"""The example of docs/adding-a-method.md runs, and keeps what it says."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from types import ModuleType

import pytest
import torch
from code_blocks import ROOT

from reattention_eval.cache import LayerCache
from reattention_eval.errors import ConfigError

EXAMPLE = ROOT / "docs/examples/every_other.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("every_other", EXAMPLE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["every_other"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_it_runs_as_the_page_says() -> None:
    said = subprocess.check_output([sys.executable, str(EXAMPLE)], text=True)
    selected = re.search(r"layer_steps_selected=(\d+)", said)
    assert selected
    # in 2 layers 29 chunks of 32 that end beyond the budget of 100, and 7 of 8 tokens read again
    assert int(selected[1]) == 2 * (29 + 7)


@pytest.mark.parametrize("length", [101, 133, 1000])
def test_views_are_those_of_a_loop(example: ModuleType, length: int) -> None:
    method = example.EveryOther(chunk_size=1)
    cache = LayerCache()
    cache.reserve(1, length)
    row = cache.append(0, *(torch.randn(1, length, 8) for _ in range(2)))
    assert method.selects(length)
    assert not method.selects(100)
    view = method.view(row, torch.randn(2, 1, 8))
    last = length - 64
    stride = next(s for s in range(1, length) if len(range(4, last, s)) <= 32)
    expected = [p for p in range(length) if p < 4 or p >= last or (p - 4) % stride == 0]
    assert view.positions.tolist() == expected
    assert len(expected) <= method.budget


def test_what_cannot_work_is_said_at_once(example: ModuleType) -> None:
    with pytest.raises(ConfigError, match="must fit into local_size 64"):
        example.EveryOther(chunk_size=65)
    with pytest.raises(ConfigError, match="lower middle_size"):
        example.EveryOther(chunk_size=1).check(99)
