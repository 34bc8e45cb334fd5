"""`bench e2e` where there is a GPU: tiers side by side, peaks, power, and a prompt's kernels."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from tiny_models import tiny_model

from reattention_eval import attach
from reattention_eval.cache import tiers
from reattention_eval.efficiency.e2e.estimate import Effort
from reattention_eval.efficiency.e2e.forms import parse_form
from reattention_eval.efficiency.e2e.measure import Bench
from reattention_eval.efficiency.e2e.meters import LEAST_SAMPLES, PowerMeter
from reattention_eval.efficiency.e2e.parts import INSIDE, measure_parts
from reattention_eval.efficiency.e2e.prompts import prompt
from reattention_eval.efficiency.e2e.record import E2ERecord, environment
from reattention_eval.efficiency.e2e.results import columns, figure_of
from reattention_eval.efficiency.shape import shape_of

pytestmark = pytest.mark.gpu
SMALL = "reattention:global_size=32,local_size=512,span_size=32,max_spans=16,chunk_size=128"
TOKENS = 6000


@pytest.fixture(scope="module")
def model() -> Any:
    made = tiny_model(window=8192, layers=2, heads=8, kv_heads=2, head_dim=64)
    return made.to("cuda", torch.bfloat16)


def test_tiers_have_the_same_bits_and_their_own_figures(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiers, "GROUP_TOKENS", 1024)
    monkeypatch.setattr(tiers, "LEAST_WINDOW", 512)
    about = {"model": "tiny", "weights": "random", "dtype": "bfloat16", "device": "a card",
             "weight_bytes": 1, "shape": shape_of(model.config.to_dict()).as_dict()}  # fmt: skip
    record = E2ERecord.begin(None, about)
    number = record.environment(environment(torch.device("cuda", 0), "0" * 40))
    one = Bench(model, record, number, Effort(2, 60, 40, 2000), print)
    forms = parse_form(SMALL).in_tiers((*tiers.TIERS, "auto"))
    assert one.measure([(form, TOKENS) for form in forms]) == []
    (column,) = columns(record)  # else they disagree
    cells = list(column.cells.values())
    assert all(len(cell["runs"]) == 2 for cell in cells)
    assert all((figure_of(cell, "peak_bytes") or 0) > one.weights for cell in cells)
    held = [figure_of(cell, "host_bytes") or 0 for cell in cells]
    assert held[0] == held[3] == 0 < held[1] < held[2]
    graphs = [bool(run["cuda_graphs"]) for cell in cells for run in cell["runs"]]
    assert graphs == 4 * [True] + 2 * [False] + 2 * [True]  # keys that come and go are in none


def test_power_is_drawn(model: Any) -> None:
    with PowerMeter() as meter:
        start, x = time.perf_counter(), torch.randn(4096, 4096, device="cuda")
        while time.perf_counter() < start + 3:
            x = (x @ x).clamp(-1, 1)
            torch.cuda.synchronize()
        stop = time.perf_counter()
    joules = meter.joules(start, stop)
    if meter._lines is None:
        assert joules is None
        return
    assert len(meter._times) >= 3 * LEAST_SAMPLES
    assert joules is not None and 50 < joules / (stop - start) < 1500  # watts


def test_a_prompts_kernels_are_told_apart(model: Any) -> None:
    ids = prompt(TOKENS, model.config.vocab_size).cuda()
    with attach(model, parse_form(SMALL).method) as session:
        found = measure_parts(lambda: session.prefill(ids))
    assert {"selection", "linear layers", "view", "view attention"} <= set(found["parts_ms"])
    assert all(found["parts_ms"][part] > 0 for part in INSIDE)
    assert found["outside_ms"] < found["ms"]
