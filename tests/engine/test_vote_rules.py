"""ReAttention's settings beside the paper's rule, against loops that share no code with them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from naive_selection import NaiveSelection
from tiny_models import random_prompt, tiny_model

from reattention_eval import ReAttention, attach
from reattention_eval.cache import LayerCache
from reattention_eval.engine.forward_size import ForwardSize
from reattention_eval.errors import ConfigError
from reattention_eval.methods import build_method, method_of_text, method_settings, text_of_method

SIZES = dict(global_size=3, local_size=9, span_size=4, top_k=2, max_spans=3, chunk_size=5)
PAPER = ReAttention(**SIZES)
RULES = [
    dict(per_kv_head=True),
    dict(votes="rank"),
    dict(votes="margin"),
    dict(votes="mass"),
    dict(span_grid=True),
    dict(vote_memory=2),
    dict(layer_slope=0.6),
    dict(per_kv_head=True, votes="mass", span_grid=True, vote_memory=3, layer_slope=-0.4),
]
by_rule = pytest.mark.parametrize("rule", RULES, ids=str)
EACH = [*(pytest.param(rule, marks=pytest.mark.slow) for rule in RULES[:-1]), RULES[-1]]
all_at_once = pytest.mark.parametrize("rule", EACH, ids=str)  # by default; each alone: slow


def noted(monkeypatch):
    """Positions of every view, for each KV head, by (layer, tokens in the cache)."""
    found, original = {}, ReAttention.view

    def view(self, row, query):
        made = original(self, row, query)
        of_heads = [positions.tolist() for positions in made.of_heads(row.length)]
        of_heads = of_heads if self.per_kv_head else of_heads * len(row.key)
        found[row.depth[0], row.length] = of_heads
        return made

    monkeypatch.setattr(ReAttention, "view", view)
    return found


def compare(model, prompt, rule, monkeypatch, steps=4):
    views, naive = noted(monkeypatch), NaiveSelection(model, **SIZES, **rule)
    with attach(model, replace(PAPER, **rule)) as session:
        views.clear()
        logits, expected = session.prefill(prompt), naive.prefill(prompt[0].tolist())
        for token in range(5, 5 + steps):
            torch.testing.assert_close(logits[0], expected, rtol=0, atol=1e-9)
            logits, expected = session.decode(torch.tensor([[token]])), naive.chunk([token])
        torch.testing.assert_close(logits[0], expected, rtol=0, atol=1e-9)
        attended, steps_done = session.stats.mean_view, session.stats.layer_steps
    assert views == {at: view for at, view in naive.views.items() if PAPER.selects(at[1])}
    sizes = [round(sum(map(len, of)) / len(of) + 1e-9) for of in naive.views.values()]
    assert len(sizes) == steps_done
    assert attended == pytest.approx(sum(sizes) / len(sizes))


@pytest.mark.parametrize(
    ("heads", "kv_heads", "rule"),
    [(6, 2, rule) for rule in RULES] + [(*n, RULES[-1]) for n in ((2, 2), (4, 1), (7, 1))],
    ids=str,
)
def test_views_equal_to_loops(heads, kv_heads, rule):
    """Of chunks and of tokens one by one, random keys, in the second of three layers and others."""
    dim, draw = 8, torch.Generator().manual_seed(heads)
    config = SimpleNamespace(num_hidden_layers=3, num_key_value_heads=kv_heads)
    naive = NaiveSelection(SimpleNamespace(config=config), **SIZES, **rule)
    paper = NaiveSelection(naive.model, **SIZES)
    method, differ = replace(PAPER, **rule), False
    voters = [range(h * heads // kv_heads, (h + 1) * heads // kv_heads) for h in range(kv_heads)]
    voters = voters if method.per_kv_head else [range(heads)]
    for layer in range(3):
        cache, keys = LayerCache(depth=(layer, 3)), []
        cache.reserve(1, 64)
        for tokens in (5, 5, 5, 5, 5, 3, 1, 1, 4, 1, 1, 1, 2):
            key, query = (
                torch.randn(n, tokens, dim, dtype=torch.float64, generator=draw)
                for n in (kv_heads, heads)
            )
            cache.append(0, key, key)
            keys.extend(key.transpose(0, 1))
            if not method.selects(len(keys)):
                continue
            asked = layer, query.transpose(0, 1), keys, heads // kv_heads
            views = [naive.view_of(asked[0], own, *asked[1:]) for own in voters]
            found = method.view(cache.beginning(0, len(keys)), query).of_heads(len(keys))
            assert [view.tolist() for view in found] == views
            old = paper.view_of(layer, range(heads), *asked[1:])
            differ |= views != [old] * len(views)
    assert differ


@all_at_once
def test_equal_to_loops(rule, monkeypatch):
    model = tiny_model(heads=6, kv_heads=2, head_dim=8, layers=2)
    compare(model, random_prompt(32), rule, monkeypatch, steps=3)


@all_at_once
def test_rows_of_a_batch_are_what_they_are_alone(rule):
    model, lengths = tiny_model(), (61, 4, 40)
    ids, mask = random_prompt(61, rows=3), torch.ones(3, 61, dtype=torch.int64)
    for row, length in enumerate(lengths):
        mask[row, : 61 - length] = 0
    tokens = torch.tensor([[5], [6], [7]])
    with attach(model, replace(PAPER, **rule)) as session:
        together = [session.prefill(ids, mask), *(session.decode(tokens + i) for i in range(3))]
        for row, length in enumerate(lengths):
            alone = [session.prefill(ids[row : row + 1, -length:])]
            alone += [session.decode(tokens[row : row + 1] + i) for i in range(3)]
            for one, other in zip(alone, together, strict=True):
                torch.testing.assert_close(other[row], one[0], rtol=1e-10, atol=1e-10)


@all_at_once
def test_what_is_taken_back_leaves_nothing(rule, monkeypatch):
    """An answer scored, a beginning kept: the same bits as of a fresh session."""
    model, prompt = tiny_model(), random_prompt(61)
    method = replace(PAPER, last_tokens=9, last_alone=True, **rule)

    def steps(session):
        return [session.decode(torch.tensor([[token]])) for token in (5, 6, 7)]

    with attach(model, method) as session:
        first = session.prefill(prompt)
        want = steps(session)
    with attach(model, method) as session:
        session.prefill(prompt)
        session.answer_nll([3, 4, 5, 6])
        assert all(map(torch.equal, steps(session), want))
        session.prefill(random_prompt(61, seed=7))
        session.prefill(prompt[:, :58])
        assert torch.equal(session.prefill(prompt, reuse_prefix=True), first)
        assert session.stats.reused_tokens
        assert all(map(torch.equal, steps(session), want))
    monkeypatch.setattr(ForwardSize, "choose", lambda self, rows: 240)
    with attach(model, method) as session:
        torch.testing.assert_close(session.prefill(prompt), first, rtol=1e-10, atol=1e-10)


def test_one_set_of_the_same_size():
    """Each rule attends to as many keys at most, in the mean over layers."""
    for rule in RULES:
        method = replace(PAPER, **rule)
        assert method.budget == PAPER.budget and method.whole_until == PAPER.whole_until
        for layers in (1, 2, 3, 28, 30):
            spans = [method.spans_of(layer, layers) for layer in range(layers)]
            assert sum(spans) == layers * method.max_spans and min(spans) >= 1
            assert spans == sorted(spans, reverse=method.layer_slope >= 0)
            assert layers == 1 or max(spans) == method.widest_spans
    steep = ReAttention(layer_slope=0.5)
    assert len({steep.spans_of(layer, 80) for layer in range(80)}) == 9
    assert [steep.spans_of(layer, 3) for layer in range(3)] == [191, 127, 63]
    steep.check(32 + 4096 + 191 * 32)
    with pytest.raises(ConfigError, match=r"scope of 10240 tokens .* 32 \+ 4096 \+ 191 x 32"):
        steep.check(8192)


def test_settings_in_a_word(tmp_path):
    names = {"per_kv_head", "votes", "span_grid", "vote_memory", "layer_slope"}
    assert not names & set(PAPER.settings())
    assert build_method(dict(type="reattention", **SIZES, layer_slope=0)) == PAPER
    assert repr(replace(PAPER, layer_slope=0)) == repr(PAPER)
    for rule in RULES:
        method = replace(PAPER, **rule)
        assert method_of_text(text_of_method(method_settings(method))) == method
    with attach(tiny_model(), replace(PAPER, vote_memory=2)) as session:
        session.prefill(random_prompt(40))
        with pytest.raises(ConfigError, match="comes from the queries"):
            session.save(tmp_path / "saved")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(votes="most"), "unknown votes 'most'; there are: count, rank, margin, mass"),
        (dict(votes="rank", top_k=1), "top_k=1 leaves it one"),
        (dict(votes="mass", top_k=1), "top_k=1 leaves it one"),
        (dict(votes="mass", score="qkv_l1"), "score=\"qk\"; found score='qkv_l1'"),
        (dict(votes="margin", score="qkv_l2"), "score=\"qk\"; found score='qkv_l2'"),
        (dict(vote_memory=-1), "vote_memory must not be negative, found -1"),
        (dict(per_kv_head=1), "per_kv_head must be True or False, found 1"),
        (dict(layer_slope=1), "between -1 and 1 .* found 1"),
        (dict(layer_slope=True), "found True"),
        (dict(layer_slope="pyramid"), "found 'pyramid'"),
        (dict(layer_slope=0.9, max_spans=4), "leaves every layer a span of max_spans 4"),
    ],
    ids=str,
)
def test_wrong_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        ReAttention(**settings)
