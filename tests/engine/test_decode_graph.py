"""Decode steps that repeat one piece of work give what ordinary steps give."""

from __future__ import annotations

import pytest
import torch
from repeats import repeat_without_gpu
from tiny_models import random_prompt, tiny_model

from reattention_eval import ReAttention, StreamingLLM, attach
from reattention_eval.attention import hook
from reattention_eval.engine import decode_graph
from reattention_eval.engine.decode_graph import RepeatedDecode

METHOD = ReAttention(4, 64, 8, 3, 9, chunk_size=64)


@pytest.fixture
def repeated(monkeypatch):
    return repeat_without_gpu(monkeypatch)


def run(method, prompt, steps=40):
    """Logits after a prefill and after every step; also after going back, and the counters."""
    with attach(tiny_model(layers=2, dtype=torch.float64), method) as session:
        logits = [session.prefill(prompt, max_new_tokens=64)]
        nll = session.answer_nll(list(range(1, 12)))
        for token in range(steps):
            logits.append(session.decode(torch.tensor([[token % 50]])))
        again = session.generate(prompt[:, :300], max_new_tokens=9)
        stats = session.stats.as_dict()
        timed = ("second", "bytes", "mean_view")  # a repeat's view is counted on a GPU only
        counters = {k: v for k, v in stats.items() if not any(word in k for word in timed)}
        return torch.cat(logits), nll, again, counters, session.lengths


def test_as_ordinary_steps(repeated):
    prompt = random_prompt(400)
    got = run(METHOD, prompt)
    assert len(set(repeated)) >= 3  # several rooms: 40 steps cross their ends
    repeated.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(METHOD.__class__, "repeatable", lambda self, length: False)
        want = run(METHOD, prompt)
    assert not repeated
    torch.testing.assert_close(got[0], want[0], rtol=0, atol=1e-12)
    assert got[1] == pytest.approx(want[1], abs=1e-12)
    assert torch.equal(got[2], want[2])
    assert got[3:] == want[3:]


def test_only_what_selects_is_repeated(repeated):
    run(METHOD, random_prompt(90), steps=10)  # within the scope until the end
    run(StreamingLLM(4, 60, chunk_size=32), random_prompt(400))
    with attach(tiny_model(layers=2), METHOD) as session:
        session.generate(random_prompt(400).expand(2, -1), max_new_tokens=9)
    assert not repeated


def test_what_waits_for_the_device_is_not_repeated(monkeypatch, repeated):
    monkeypatch.setattr(hook, "FLASH_DTYPES", (torch.bfloat16,))
    run(METHOD, random_prompt(400), steps=10)
    assert not repeated


def test_a_capture_that_fails_is_said_and_steps_go_on(monkeypatch, repeated):
    monkeypatch.undo()
    original = RepeatedDecode.__init__

    def able(self, *args):
        original(self, *args)
        self._able = True

    def broken(self, forward):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(RepeatedDecode, "__init__", able)
    monkeypatch.setattr(RepeatedDecode, "_capture", broken)
    with attach(tiny_model(layers=2), METHOD) as session:
        session.prefill(random_prompt(400), max_new_tokens=32)
        for _ in range(decode_graph.STEPS_BEFORE_CAPTURE):
            session.decode(torch.tensor([[5]]))
        with pytest.warns(RuntimeWarning, match="could not be made"):
            session.decode(torch.tensor([[5]]))
        for _ in range(4):
            session.decode(torch.tensor([[5]]))
        assert session.lengths == [408]
        session.check_selected()
