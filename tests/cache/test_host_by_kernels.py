"""Values in host memory, brought and attended by kernels in the interpreter: a device's bits.

As on a GPU: chunks of a forward in several calls, steps that are repeated, halves that take turns.
"""

from __future__ import annotations

import pytest
import torch
from repeats import repeat_without_gpu
from small_tiers import make_tiers_small
from tiny_models import longrope, random_prompt, tiny_model

pytest.importorskip("triton")

from reattention_eval import ReAttention, StreamingLLM, attach
from reattention_eval.attention import attend, fused_view_attention, repeated_steps, view_answers
from reattention_eval.cache import host_row
from reattention_eval.engine.forward_size import ForwardSize
from reattention_kernels.topk_keys.triton import interpreted
from reattention_kernels.values.triton import fetch_values_triton
from reattention_kernels.view import launch

pytestmark = pytest.mark.skipif(not interpreted(), reason="on a GPU test_host_cuda.py does this")


@pytest.fixture(autouse=True)
def brought(monkeypatch):
    """Kernels take float32 on the CPU; how many views were brought by one, and in how many calls
    of the attention."""
    counted = {"brought": 0, "attended": 0}

    def fetch(*args):
        counted["brought"] += 1
        fetch_values_triton(*args)

    def attended(*args):
        counted["attended"] += 1
        return launch.attend_view_triton(*args)

    for name in ("DECODE_SPLITS", "MORE_SPLITS", "WHOLE_PROGRAMS"):
        monkeypatch.setattr(launch, name, 2)  # the interpreter runs programs one by one
    for module in (fused_view_attention, attend):
        monkeypatch.setattr(module, "FLASH_DTYPES", (torch.float32,))
        monkeypatch.setattr(module, "use_triton", lambda tensor: True)
    monkeypatch.setattr(fused_view_attention, "attend_view", attended)
    monkeypatch.setattr(attend, "attend_whole", launch.attend_whole_triton)
    monkeypatch.setattr(host_row, "fetch_values", fetch)
    monkeypatch.setattr(repeated_steps, "FLASH_DTYPES", (torch.float32,))
    monkeypatch.setattr(ForwardSize, "choose", lambda self, rows: 64)
    monkeypatch.setattr(view_answers, "FETCHED_MEANWHILE", 0)
    make_tiers_small(monkeypatch, group=32, leave=2)
    return counted


def run(method, cache, **settings):
    model = tiny_model(heads=3, kv_heads=1, layers=1, dtype=torch.float32, **settings)
    with attach(model, method, cache=cache) as session:
        found = [session.prefill(random_prompt(136), max_new_tokens=20)]
        found += [session.decode(torch.tensor([[token]])) for token in range(5, 12)]
        found.append(session.extend(random_prompt(20, seed=5)))
        return found, session.stats


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(ReAttention(4, 16, 4, 3, 6, chunk_size=8), id="reattention"),
        pytest.param(StreamingLLM(4, 40, chunk_size=8), id="streaming", marks=pytest.mark.slow),
    ],
)
def test_the_same_bits(method, brought, monkeypatch):
    rooms = repeat_without_gpu(monkeypatch)
    monkeypatch.setattr(repeated_steps, "FLASH_DTYPES", (torch.float32,))
    want, plain = run(method, "device")
    assert rooms and not brought["brought"]
    brought["attended"] = 0
    rooms.clear()
    found, stats = run(method, "values_on_host")
    assert all(torch.equal(one, other) for one, other in zip(found, want, strict=True))
    assert rooms and stats.cache_host_bytes and stats.mean_view == plain.mean_view
    if method.name == "reattention":
        assert brought["brought"] > 2 * brought["attended"] / 3
        assert 0.05 < stats.value_hits < 1


def test_views_whose_rotation_no_kernel_takes_are_fetched_once(monkeypatch):
    """RoPE that changes with the view's length: nothing is on its way beside another answer."""
    method = ReAttention(4, 16, 4, 3, 6, chunk_size=8, allow_beyond_window=True)
    model = dict(window=40, rope_scaling=longrope(40))  # views have 20 to 44 keys
    found, stats = run(method, "values_on_host", **model)
    monkeypatch.setattr(fused_view_attention, "use_triton", lambda tensor: False)
    want, plain = run(method, "values_on_host", **model)
    torch.testing.assert_close(found, want)
    assert stats.values_asked == plain.values_asked > 0
