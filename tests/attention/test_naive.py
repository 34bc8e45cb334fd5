"""Against the loop-only reference: the same positions, the same logits."""

from __future__ import annotations

import pytest
import torch
from naive_reattention import Naive
from tiny_models import FAMILIES, random_prompt, tiny_model

from reattention_eval import ReAttention, attach

BASE = dict(global_size=3, local_size=12, span_size=4, top_k=2, max_spans=3, chunk_size=5)


def compare(model, prompt, settings, monkeypatch, decode=2, **extra):
    """Prefill and decode both ways; every view and every logit must agree."""
    ids = prompt[0].tolist()
    naive = Naive(model, **settings, **extra)
    method_extra = {**extra}
    if method_extra.pop("block_max", False):
        method_extra["selection"] = "block_max"
    views = spy(monkeypatch)
    method = ReAttention(**settings, **method_extra)
    with attach(model, method) as session:
        views.clear()
        logits = session.prefill(prompt)
        expected = naive.prefill(ids)
        for _ in range(decode):
            torch.testing.assert_close(logits[0], expected, rtol=0, atol=1e-9)
            token = int(logits.argmax())
            logits = session.decode(torch.tensor([[token]]))
            expected = naive.chunk([token])
        torch.testing.assert_close(logits[0], expected, rtol=0, atol=1e-9)
        assert session.stats.layer_steps_selected > 0
    whole = [at for at in naive.views if not method.selects(at[1])]  # the method is not asked
    assert views | {at: list(range(at[1])) for at in whole} == naive.views


def spy(monkeypatch) -> dict[tuple[int, int], list[int]]:
    """Positions of every view by (layer, tokens in the cache), as the naive form notes them."""
    views: dict[tuple[int, int], list[int]] = {}
    original = ReAttention.view

    def view(self, row, query):
        view = original(self, row, query)
        layer = sum(tokens == row.length for _, tokens in views)
        views[layer, row.length] = view.positions(row.length).tolist()
        return view

    monkeypatch.setattr(ReAttention, "view", view)
    return views


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (6, 2), (4, 1), (7, 1)], ids=str)
def test_gqa_ratios(heads, kv_heads, monkeypatch):
    model = tiny_model(heads=heads, kv_heads=kv_heads, head_dim=8)
    compare(model, random_prompt(41), BASE, monkeypatch)


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family, monkeypatch):
    compare(tiny_model(family), random_prompt(37), BASE, monkeypatch)


@pytest.mark.parametrize(
    "change",
    [
        dict(global_size=0),
        dict(chunk_size=12),
        dict(chunk_size=1),
        dict(span_size=1),
        dict(span_size=7),
        dict(top_k=16),
        dict(max_spans=1, span_size=1),
        dict(local_size=5),
        dict(select_from="local"),
    ],
    ids=str,
)
def test_settings(change, monkeypatch):
    settings = {**BASE, **change}
    extra = {k: settings.pop(k) for k in ("select_from",) if k in settings}
    compare(tiny_model(), random_prompt(43), settings, monkeypatch, **extra)


@pytest.mark.parametrize("tokens", [28, 29, 33], ids=str)
def test_lengths_around_the_scope(tokens, monkeypatch):
    """Scope 27: the first selecting step may fall into the prompt's last chunk or into decoding."""
    compare(tiny_model(), random_prompt(tokens), BASE, monkeypatch)


def test_ties_go_to_lower_positions(monkeypatch):
    """A repeated token has equal keys in the first layer: every score is tied many times over."""
    prompt = torch.tensor([[5, 7, 5] * 14])
    compare(tiny_model(), prompt, BASE, monkeypatch)


def test_fewer_keys_than_k(monkeypatch):
    settings = {**BASE, "top_k": 16}
    compare(tiny_model(), random_prompt(19), settings, monkeypatch, select_from="local")


def test_block_max(monkeypatch):
    settings = {**BASE, "top_k": 4}
    compare(
        tiny_model(heads=2, kv_heads=1),
        random_prompt(170),
        settings,
        monkeypatch,
        decode=1,
        block_max=True,
    )
