"""Views attended by kernels, in the interpreter, inside a whole model: as by PyTorch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from repeats import repeat_without_gpu
from tiny_models import longrope, random_prompt, tiny_model

pytest.importorskip("triton")

from reattention_eval import FullAttention, ReAttention, StreamingLLM, attach
from reattention_eval.attention import attend, fused_view_attention, repeated_steps, view_answers
from reattention_eval.engine.forward_size import ForwardSize
from reattention_kernels.topk_keys.triton import interpreted
from reattention_kernels.view import launch

pytestmark = pytest.mark.skipif(not interpreted(), reason="on a GPU test_cuda.py does this")

METHODS = [
    FullAttention(chunk_size=32),
    StreamingLLM(sink_size=4, window_size=64, chunk_size=32),
    ReAttention(4, 32, 8, 3, 9, chunk_size=32),  # a scope of 108 tokens
]
SMALL = ReAttention(2, 16, 4, 2, 6, chunk_size=16, per_kv_head=True)
RULES = [replace(SMALL, votes="mass", span_grid=True), replace(SMALL, vote_memory=2)]
STEPS = 4
LONGROPE = longrope(64)


@pytest.fixture
def by_kernels(monkeypatch):
    """Kernels take float32 on the CPU; yields what they were called for."""
    called = []

    def noted(name, kernel):
        def call(query, *args):
            called.append((name, query.shape[2]))
            return kernel(query, *args)

        return call

    for name in ("DECODE_SPLITS", "MORE_SPLITS", "WHOLE_PROGRAMS"):
        monkeypatch.setattr(launch, name, 2)  # the interpreter runs programs one by one
    for module in (fused_view_attention, attend):
        monkeypatch.setattr(module, "FLASH_DTYPES", (torch.float32,))
        monkeypatch.setattr(module, "use_triton", lambda tensor: True)
    monkeypatch.setattr(
        fused_view_attention, "attend_view", noted("view", launch.attend_view_triton)
    )
    monkeypatch.setattr(attend, "attend_whole", noted("whole", launch.attend_whole_triton))
    return called


def run(method, tokens, steps=STEPS, **settings):
    """Logits of a prefill and some steps, of one prompt and of two, and the mean view."""
    shape = dict(heads=3, kv_heads=1, layers=1, dtype=torch.float32)
    with attach(tiny_model(**{**shape, **settings}), method) as session:
        logits = [session.prefill(random_prompt(tokens))]
        logits += [session.decode(torch.tensor([[token]])) for token in range(steps)]
        prompts = random_prompt(tokens, rows=2)
        mask = torch.ones_like(prompts)
        mask[1, : tokens // 3] = 0
        logits.append(session.prefill(prompts, mask))
        logits.append(session.decode(torch.tensor([[5], [6]])))
        return torch.cat(logits), session.stats.mean_view


@pytest.mark.parametrize("tokens", [40, 106, 200], ids=["within", "across", "beyond"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_as_without_kernels(method, tokens, by_kernels):
    got = run(method, tokens)
    steps = [name for name, queries in by_kernels if queries == 1]
    assert len(steps) == STEPS + 2  # the last step is of two rows
    assert set(steps) == {"whole" if method.name == "full" else "view"}
    with pytest.MonkeyPatch.context() as patch:
        for module in (fused_view_attention, attend):
            patch.setattr(module, "use_triton", lambda tensor: False)
        want = run(method, tokens)
    torch.testing.assert_close(got[0], want[0], rtol=1e-4, atol=1e-4)
    assert got[1] == want[1]


@pytest.mark.parametrize("method", METHODS[1:], ids=lambda method: method.name)
@pytest.mark.parametrize("rope", [LONGROPE, {"rope_type": "dynamic", "factor": 2.0}], ids=str)
def test_frequencies_of_the_prompt(method, rope, by_kernels):
    """A scope past the length at which the frequencies change, as a user may allow it."""
    settings = dict(rope_scaling=rope, window=512 if rope is LONGROPE else 64)
    wide = replace(method, allow_beyond_window=True)
    got = run(wide, 63, **settings)
    assert ("view", 1) in by_kernels
    with pytest.MonkeyPatch.context() as patch:
        for module in (fused_view_attention, attend):
            patch.setattr(module, "use_triton", lambda tensor: False)
        want = run(wide, 63, **settings)
    torch.testing.assert_close(got[0], want[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_repeated_steps_read_their_length_on_the_device(method, by_kernels, monkeypatch):
    """Within the scope and on beyond it, where a repeat has the kernels' arguments of its room."""
    want = run(method, 106, steps=6)
    rooms = repeat_without_gpu(monkeypatch)
    monkeypatch.setattr(repeated_steps, "FLASH_DTYPES", (torch.float32,))
    got = run(method, 106, steps=6)
    assert rooms
    assert torch.equal(got[0], want[0])


@pytest.mark.parametrize("method", METHODS[1:], ids=lambda method: method.name)
def test_chunks_of_a_forward_are_answered_together(method, by_kernels, monkeypatch):
    """As chunk by chunk, in as many calls as the gathered views may take memory."""
    want = run(method, 210, steps=1)
    alone = by_kernels.copy()
    by_kernels.clear()
    chunks = []
    attend_view = fused_view_attention.attend_view
    monkeypatch.setattr(
        fused_view_attention,
        "attend_view",
        lambda query, *args: chunks.append(len(query)) or attend_view(query, *args),
    )
    monkeypatch.setattr(ForwardSize, "choose", lambda self, rows: 256)
    view_bytes = 2 * 16 * 4 * method.budget
    monkeypatch.setattr(view_answers, "GATHERED_BYTES", 3 * view_bytes)
    got = run(method, 210, steps=1)
    assert max(chunks) == 3
    assert sum(chunks) == len([name for name, _ in alone if name == "view"])
    torch.testing.assert_close(got[0], want[0], rtol=1e-4, atol=1e-4)
    assert got[1] == want[1]


@pytest.mark.parametrize("method", RULES, ids=["mass", "memory"])
@pytest.mark.parametrize("form", ["alone", "together", "repeated"])
@pytest.mark.slow
def test_a_view_for_each_kv_head(form, method, by_kernels, monkeypatch):
    """Chunks one by one or together, two KV heads, steps as a graph would repeat them."""
    shape = dict(steps=2, heads=6, kv_heads=2)
    if form == "together":
        monkeypatch.setattr(ForwardSize, "choose", lambda self, rows: 48)
    elif form == "repeated":
        rooms, shape["steps"] = repeat_without_gpu(monkeypatch), 7
        monkeypatch.setattr(repeated_steps, "FLASH_DTYPES", (torch.float32,))
    got = run(method, 65, **shape)
    assert ("view", 16) in by_kernels and ("view", 1) in by_kernels
    if form == "repeated":
        assert bool(rooms) == (method.vote_memory == 0)
    for module in (fused_view_attention, attend):
        monkeypatch.setattr(module, "use_triton", lambda tensor: False)
    want = run(method, 65, **shape)
    torch.testing.assert_close(got[0], want[0], rtol=1e-4, atol=1e-4)
    assert got[1] == want[1]
