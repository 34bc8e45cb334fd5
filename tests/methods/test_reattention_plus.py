"""`reattention_plus`: what `reattention` is with its settings spelt out, and the rule as loops."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from naive_reattention import Naive
from repeats import repeat_without_gpu
from small_tiers import make_tiers_small
from tiny_models import random_prompt, tiny_model

from reattention_eval import ReAttention, attach
from reattention_eval.cache import TIERS
from reattention_eval.engine.scoring import token_nll
from reattention_eval.errors import ConfigError
from reattention_eval.methods import (
    ReAttentionPlus,
    build_method,
    method_of_text,
    method_settings,
    text_of_method,
)

LAST = 48
SIZES = dict(global_size=2, local_size=32, span_size=4, max_spans=4, top_k=3, chunk_size=20)
SCOPE = 2 + 32 + 4 * 4


def told(method, cache, folder):
    """All that a session gives, and what it counted."""
    model, prompt = tiny_model(), random_prompt(150)
    with attach(model, method, cache=cache) as session:
        yield session.prefill(prompt)
        yield session.decode(torch.tensor([[5]]))
        for tokens in (1, 30, 48, 70):  # turns
            yield session.extend(random_prompt(tokens, seed=tokens))
        yield session.answer_nll([3, 4, 5])
        session.save(folder / "saved")
        yield session.prefill(prompt[:, :120], reuse_prefix=True)
        yield session.load(folder / "saved")
        yield session.prefill(prompt[:, :120], reuse_prefix=True)
        yield session.generate(prompt, 6)
        yield session.generate(prompt, 6, document_tokens=130)
        yield model.generate(prompt, max_new_tokens=6, do_sample=False)
        yield token_nll(session, prompt)
        mask = torch.ones(3, 150, dtype=torch.int64)
        for row, length in enumerate((150, 47, 99)):
            mask[row, : 150 - length] = 0
        yield session.prefill(random_prompt(150, rows=3), mask)
        yield session.decode(torch.tensor([[5], [6], [7]]))
        stats = session.stats
        assert stats.layer_steps_selected > 0
        yield [stats.layer_steps, stats.layer_steps_selected, stats.mean_view, stats.reused_tokens]


@pytest.mark.parametrize("cache", [*TIERS, "auto"])
def test_the_bits_of_reattention_with_the_settings_spelt_out(cache, tmp_path, monkeypatch):
    make_tiers_small(monkeypatch)
    found = told(ReAttentionPlus(**SIZES), cache, tmp_path / "a")
    want = told(ReAttention(**SIZES, last_tokens=LAST), cache, tmp_path / "b")
    for place, (one, other) in enumerate(zip(found, want, strict=True)):
        same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
        assert same, place


def test_defaults_differ_in_three_settings_alone():
    plus, paper = ReAttentionPlus(), ReAttention()
    differing = {f.name for f in fields(plus) if getattr(plus, f.name) != getattr(paper, f.name)}
    assert differing == {"local_size", "max_spans", "last_tokens"}
    assert (plus.local_size, plus.last_tokens, plus.budget) == (1024, LAST, paper.budget)
    assert [f.name for f in fields(plus)] == [f.name for f in fields(paper)]  # given by place too


def chunks(tokens):
    """[begin, end) of each: those before the last 48, then these, counted anew."""
    cut = max(0, tokens - LAST)
    begins = [*range(0, cut, 20), *range(cut, tokens, 20)]
    return list(zip(begins, [*begins[1:], tokens], strict=True))


@pytest.mark.parametrize("tokens", [1, 47, 48, 49, SCOPE, SCOPE + 1, SCOPE + 49, 2 * SCOPE + 17])
def test_prompts_and_turns_as_loops(tokens):
    model = tiny_model(heads=2, kv_heads=1, layers=1, vocab_size=300)
    naive, read = Naive(model, **SIZES), random_prompt(tokens + 7 + 59, of=300)
    with attach(model, ReAttentionPlus(**SIZES)) as session:
        for place, ids in enumerate(read.split((tokens, 7, 59), dim=1)):
            found = (session.extend if place else session.prefill)(ids)[0]
            for begin, end in chunks(ids.shape[1]):
                want = naive.chunk(ids[0, begin:end].tolist())
            torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (3, 1), (4, 1), (7, 1)])
def test_query_heads_per_kv_head_as_loops(heads, kv_heads):
    model, prompt = tiny_model(heads=heads, kv_heads=kv_heads, layers=1), random_prompt(90)
    naive = Naive(model, **SIZES)
    for begin, end in chunks(90):
        want = naive.chunk(prompt[0, begin:end].tolist())
    with attach(model, ReAttentionPlus(**SIZES)) as session:
        torch.testing.assert_close(session.prefill(prompt)[0], want, rtol=1e-10, atol=1e-10)
        assert session.stats.layer_steps_selected > 0


def test_repeated_decode_steps(monkeypatch):
    """Behind a prompt within the scope, across its end, and behind a turn."""

    def found():
        with attach(tiny_model(), ReAttentionPlus(**SIZES)) as session:
            logits = [session.prefill(random_prompt(SCOPE - 9), max_new_tokens=64)]
            for turn in (1, 60):
                logits += [session.decode(torch.tensor([[token]])) for token in range(3, 18)]
                logits.append(session.extend(random_prompt(turn, seed=turn)))
            return torch.cat(logits)

    launched = found()
    rooms = repeat_without_gpu(monkeypatch)
    torch.testing.assert_close(found(), launched, rtol=0, atol=1e-12)
    assert min(rooms) < SCOPE < max(rooms)


def test_nothing_to_read_is_refused():
    with attach(tiny_model(), ReAttentionPlus(**SIZES)) as session:
        empty = torch.empty(1, 0, dtype=torch.int64)
        for call in (session.prefill, lambda ids: session.generate(ids, 2)):
            with pytest.raises(ConfigError, match="at least one token"):
                call(empty)
        session.prefill(random_prompt(60))
        with pytest.raises(ConfigError, match="at least one token"):
            session.extend(empty)


@pytest.mark.parametrize("given", [dict(chunk_size=2048), dict()], ids=str)
def test_what_does_not_fit_is_left_to_a_budget(given):
    """A chunk larger than the local part, a window smaller than the scope: the way out is said,
    and it is one."""
    with pytest.raises(ConfigError, match=r"leave .* to budget_tokens"):
        build_method(dict(type="reattention_plus", **given)).check(4096)
    method = build_method(dict(type="reattention_plus", **given, budget_tokens=4096))
    method.check(4096)
    assert method.budget == 4096


def test_what_a_budget_becomes():
    """An eighth of it local in whole chunks, where that is as much as one; never more than it."""
    for tokens, local in ((600, 512), (1000, 512), (1100, 512), (2048, 512), (4096, 512),
                          (8192, 1024), (16416, 2048), (100_000, 12_288)):  # fmt: skip
        method = build_method(dict(type="reattention_plus", budget_tokens=tokens))
        assert method.budget == tokens and 0 <= method.local_size - local < 32
        named = text_of_method(method_settings(method))
        assert method_of_text(named) == method
    for tokens in (1, 512, 575):
        with pytest.raises(ConfigError, match="leaves no span of 32 tokens"):
            build_method(dict(type="reattention_plus", budget_tokens=tokens))
    none = build_method(dict(type="reattention_plus", budget_tokens=8192, last_tokens=None))
    assert (
        none.last_tokens is None and method_of_text(text_of_method(method_settings(none))) == none
    )
