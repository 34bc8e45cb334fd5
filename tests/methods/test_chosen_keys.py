"""Quest and the oracles against loops over pages and keys."""

from __future__ import annotations

from dataclasses import replace

import naive_chosen as naive
import pytest
import torch
from naive_chosen import NaiveChosen
from tiny_models import random_prompt, tiny_model

from reattention_eval import attach
from reattention_eval.attention import PositionsView, chosen_keys
from reattention_eval.attention.chosen_keys import attend_scored
from reattention_eval.cache import PageBounds, RowCache
from reattention_eval.errors import ConfigError
from reattention_eval.methods import FullAttention, OracleTopK, OracleTopP, Quest

RATIOS = [(2, 2), (6, 2), (8, 2), (7, 1)]
QUEST = Quest(13, page_size=4, dense_layers=0, chunk_size=5)  # three pages
CASES = [
    (QUEST, naive.quest(13, 4)),
    (OracleTopK(9, chunk_size=5), naive.topk(9)),
    (OracleTopK(9, prefill="full", chunk_size=5), naive.topk(9, "full")),
    (OracleTopP(0.8, chunk_size=5), naive.topp(0.8)),
    (OracleTopP(0.6, prefill="full", chunk_size=5), naive.topp(0.6, "full")),
    (OracleTopP(0.95, 7, chunk_size=5), naive.topp(0.95, budget=7)),
]
methods = pytest.mark.parametrize(
    ("method", "choose"), CASES, ids=lambda x: getattr(x, "name", "") and str(x.settings())
)
heads_by_ratio = pytest.mark.parametrize(("heads", "kv_heads"), RATIOS, ids=str)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # RoPE tables are in float32


def rows(heads, kv_heads, n, t, dim=8):
    generator = torch.Generator().manual_seed(n)
    return (
        torch.randn(h, m, dim, dtype=torch.float64, generator=generator)
        for h, m in ((heads, t), (kv_heads, n), (kv_heads, n))
    )


@heads_by_ratio
@pytest.mark.parametrize(("page", "pages"), [(4, 3), (3, 2), (1, 5), (7, 1)], ids=str)
def test_pages_of_random_tensors(heads, kv_heads, page, pages):
    method = Quest(pages * page, page_size=page, dense_layers=0)
    choose = naive.quest(pages * page, page)
    for n in (pages * page + 1, 29, 32, 37):
        query, key, value = rows(heads, kv_heads, n, 1)
        row = RowCache(key, value)
        view = method.view(row, query)
        view.check("it", row, query)
        found = [sorted(positions.tolist()) for positions in view.positions]
        group = heads // kv_heads
        assert found == [list(choose(query[h, 0], key[h // group], False)) for h in range(heads)]


@heads_by_ratio
@pytest.mark.parametrize("memory", [1, 1 << 20], ids=["a query at a time", "all at once"])
def test_scores_of_random_tensors(heads, kv_heads, memory, monkeypatch):
    monkeypatch.setattr(chosen_keys, "SCORE_BYTES", memory)
    monkeypatch.setattr(chosen_keys, "KEYS", 7)
    for method, choose in ((OracleTopK(6), naive.topk(6)), (OracleTopP(0.7), naive.topp(0.7))):
        for n, t in ((13, 13), (31, 5), (1, 1), (20, 1)):
            query, key, value = rows(heads, kv_heads, n, t)
            out = torch.empty_like(query)
            view = method.view(RowCache(key, value), query)
            _, counts = attend_scored(query, RowCache(key, value), 8**-0.5, view.keep, out)
            for s in range(t):
                i, taken = n - t + s, []
                for h in range(heads):
                    kv = h // (heads // kv_heads)
                    chosen = choose(query[h, s], key[kv, : i + 1], True)
                    taken.append(len(chosen))
                    expected = naive.attend(query[h, s], key[kv], value[kv], chosen, 8**-0.5)
                    torch.testing.assert_close(out[h, s], expected, rtol=0, atol=1e-12)
                assert float(counts[s]) == pytest.approx(sum(taken) / heads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_narrow_dtypes_are_scored_in_float32(dtype):
    query, key, value = (x.to(dtype) for x in rows(6, 2, 31, 5))
    wide = [x.double() for x in (query, key, value)]
    method = OracleTopK(8)
    out, exact = torch.empty_like(query), torch.empty_like(wide[0])
    attend_scored(query, RowCache(key, value), 0.5, method.keep, out)
    attend_scored(wide[0], RowCache(*wide[1:]), 0.5, method.keep, exact)
    torch.testing.assert_close(out, exact.to(dtype), rtol=2**-7, atol=1e-6)


def test_weights_of_narrow_dtypes_are_not_rounded_to_them():
    """Processors that multiply bfloat16 would, by 1e-4 here."""
    draw = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, n, 64, generator=draw).bfloat16() for n in (64, 4096, 4096)
    )  # fmt: skip
    out = torch.empty(1, 64, 64)
    attend_scored(query, RowCache(key, value), 0.1, lambda scores: scores > -torch.inf, out)
    seen = torch.arange(4096) <= torch.arange(4032, 4096)[:, None]
    scores = (query[0].double() @ key[0].double().T * 0.1).masked_fill(~seen, -torch.inf)
    torch.testing.assert_close(
        out[0].double(), scores.softmax(-1) @ value[0].double(), rtol=0, atol=1e-5
    )


def test_equal_scores_go_to_the_first():
    scores = torch.tensor([[[2.0, 1.0, 2.0, 2.0, 1.0, -torch.inf]]])
    assert OracleTopK(2).keep(scores).int().tolist() == [[[1, 0, 1, 0, 0, 0]]]
    assert OracleTopK(4).keep(scores).int().tolist() == [[[1, 1, 1, 1, 0, 0]]]
    assert OracleTopK(6).keep(scores).int().tolist() == [[[1, 1, 1, 1, 1, 0]]]
    assert OracleTopP(0.3).keep(scores).int().tolist() == [[[1, 0, 1, 0, 0, 0]]]
    assert OracleTopP(1, 4).keep(scores).int().tolist() == OracleTopK(4).keep(scores).int().tolist()


@methods
@pytest.mark.parametrize(("heads", "kv_heads"), RATIOS[1:4:2], ids=str)
def test_models_against_loops(method, choose, heads, kv_heads):
    """A prompt, decoded tokens, and what was counted."""
    model, prompt = tiny_model(heads=heads, kv_heads=kv_heads), random_prompt(27)
    loops = NaiveChosen(model, choose)
    expected = [loops.prefill(prompt[0].tolist()), *(loops.chunk([token]) for token in (5, 71, 9))]
    with attach(model, method) as session:
        close(session.prefill(prompt)[0], expected[0])
        reading = session.stats.mean_view
        session.reset_stats()
        for token, wanted in zip((5, 71, 9), expected[1:], strict=True):
            close(session.decode(torch.tensor([[token]]))[0], wanted)
        stats = session.stats

    def mean(ends):
        counted = [loops.counts[layer, n - 1] for layer in range(2) for n in ends]
        return sum(counted) / len(counted)

    assert reading == pytest.approx(mean([5, 10, 15, 20, 25, 27]), abs=0.5)
    assert stats.mean_view == pytest.approx(mean([28, 29, 30]), abs=0.5)
    assert stats.layer_steps == stats.layer_steps_selected == 6


@methods
def test_chunks_change_nothing(method, choose):
    model, prompt = tiny_model(), random_prompt(27)
    with attach(model, method) as session:
        expected = session.prefill(prompt)
    for size in (1, 27):
        with attach(model, replace(method, chunk_size=size)) as session:
            close(session.prefill(prompt), expected)


def test_first_layers_of_quest_are_full():
    model, prompt = tiny_model(layers=3), random_prompt(27)
    loops = NaiveChosen(model, naive.quest(13, 4), dense=2)
    loops.prefill(prompt[0].tolist())
    with attach(model, replace(QUEST, dense_layers=2)) as session:
        session.prefill(prompt)
        session.reset_stats()
        close(session.decode(torch.tensor([[5]]))[0], loops.chunk([5]))
        assert session.stats.mean_view == (28 + 28 + 12) / 3
        assert (session.stats.layer_steps, session.stats.layer_steps_selected) == (3, 1)


@methods
def test_batch_with_padding(method, choose):
    model, lengths = tiny_model(), (23, 23, 9)
    prompts = random_prompt(23, rows=3)
    mask = torch.tensor([[0] * (23 - n) + [1] * n for n in lengths])
    with attach(model, method) as session:
        found = session.prefill(prompts, attention_mask=mask)
        after = session.decode(torch.tensor([[5], [6], [7]]))
    for row, n in enumerate(lengths):
        loops = NaiveChosen(model, choose)
        close(found[row], loops.prefill(prompts[row, 23 - n :].tolist()))
        close(after[row], loops.chunk([5 + row]))


@pytest.mark.parametrize(
    "method",
    [Quest(64, dense_layers=0), OracleTopK(40), OracleTopP(1), OracleTopP(1, 40)],
    ids=lambda method: method.name,
)
def test_full_attention_where_the_budget_holds_all(method):
    model, prompt = tiny_model(), random_prompt(35)

    def logits(method):
        with attach(model, method) as session:
            return session.prefill(prompt), session.decode(torch.tensor([[5]]))

    for found, expected in zip(logits(method), logits(FullAttention()), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "settings", [{}, {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}]
)
def test_all_keys_chosen_one_by_one_are_full_attention(settings):
    """The way through the scores, and RoPE that depends on the prompt's length."""
    model, prompt = tiny_model(window=24, **settings), random_prompt(35)
    answers = []
    for method in (FullAttention(chunk_size=8), OracleTopP(1 - 1e-15, chunk_size=8)):
        with attach(model, method) as session:
            answers.append((session.prefill(prompt), session.decode(torch.tensor([[5]]))))
            if method.selects(35):
                assert session.stats.layer_steps_selected == session.stats.layer_steps
    for found, expected in zip(*answers, strict=True):
        close(found, expected)


@methods
def test_what_is_decoded_is_scored_as_it_is_decoded(method, choose):
    """An answer's likelihood step by step, from model.generate, and afterwards nothing is left."""
    model, prompt, answer = tiny_model(), random_prompt(27), [5, 71, 9, 33, 8, 60]
    loops = NaiveChosen(model, choose)
    logits = [loops.prefill(prompt[0].tolist()), *(loops.chunk([token]) for token in answer[:-1])]
    expected = [
        -float(row.log_softmax(0)[token]) for row, token in zip(logits, answer, strict=True)
    ]
    with attach(model, method) as session:
        session.prefill(prompt)
        found = session.answer_nll(answer)
        assert found == pytest.approx(sum(expected) / len(answer), abs=1e-5)
        close(session.decode(torch.tensor([[5]]))[0], logits[1])
        new = session.generate(prompt, max_new_tokens=6)
        users = model.generate(prompt, max_new_tokens=6, do_sample=False)
        assert users[0, 27:].tolist() == new[0].tolist()


def test_one_after_another_leaves_nothing_behind():
    model, prompt = tiny_model(), random_prompt(33)

    def logits(method):
        with attach(model, method) as session:
            session.prefill(prompt)
            return session.decode(torch.tensor([[5]]))

    for first, second in ((CASES[0][0], CASES[1][0]), (CASES[3][0], CASES[0][0])):
        before = logits(first)
        assert not torch.equal(logits(second), before)
        assert torch.equal(logits(first), before)


def test_page_bounds_follow_the_keys():
    """Grown, cut inside a page and filled again, they are those of the keys there are."""
    generator = torch.Generator().manual_seed(0)
    keys, query = (torch.randn(2, n, 8, generator=generator) for n in (50, 3))
    query = query.flatten(0, 1)
    bounds, start = PageBounds(4), 0
    for length, back in ((6, 5), (19, 17), (21, 3), (50, 0)):
        bounds.append(keys[:, :length], start)
        made = PageBounds(4)
        made.append(keys[:, :length], 0)
        pages = length // 4
        found = bounds.highest(query, pages, 1), made.highest(query, pages, 1)
        assert torch.equal(*found)
        bounds.rewind(back)
        keys = torch.cat((keys[:, :back], torch.randn(2, 50 - back, 8, generator=generator)), 1)
        start = back
    assert bounds.nbytes == 2 * 2 * 13 * 8 * 4


def test_reach_and_memory():
    for method in (Quest(), OracleTopK(), OracleTopP()):
        assert method.reach(4096) == 4096  # beyond the window as full attention
    assert (Quest(100).budget, Quest(100).whole_until) == (96, 96)
    assert Quest().index_bytes(33, 128) == 3 * 2 * 128 * 2


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (Quest, dict(budget_tokens=15), "budget_tokens 15 must hold a page of 16 tokens"),
        (Quest, dict(page_size=0), "page_size must be at least 1, found 0"),
        (Quest, dict(dense_layers=-1), "dense_layers must be at least 0"),
        (OracleTopK, dict(budget_tokens=0), "budget_tokens must be at least 1, found 0"),
        (OracleTopK, dict(prefill="none"), "unknown prefill 'none'; there are: chosen, full"),
        (OracleTopP, dict(p=0), "p must be a number above 0 and at most 1, found 0"),
        (OracleTopP, dict(p=95), "p must be .* found 95"),
        (OracleTopP, dict(p="0.9"), "p must be .* found '0.9'"),
        (OracleTopP, dict(budget_tokens=0), "budget_tokens must be at least 1"),
        (OracleTopP, dict(budget_tokens=2.5), "budget_tokens must be a whole number"),
    ],
    ids=str,
)
def test_refusals(method, settings, message):
    with pytest.raises(ConfigError, match=message):
        method(**settings)


def test_a_model_of_dense_layers_alone_is_refused():
    with pytest.raises(ConfigError, match=r"quest: the first 2 layers attend .* of the 2 layers"):
        attach(tiny_model(), Quest()).__enter__()


def test_views_that_are_none_are_refused():
    row, query = RowCache(*(torch.randn(2, 9, 8) for _ in range(2))), torch.randn(4, 1, 8)
    good = torch.arange(3).expand(4, 3)
    PositionsView(good).check("it", row, query)
    for positions, message in [
        (good[:3], r"positions torch.int64 \[3, 3\], not int64 \[4, n\]"),
        (good.int(), "positions torch.int32"),
        (good[:, :0], "not int64"),
        (good + 7, "positions outside 0..8"),
        (good // 2, "a position twice"),
    ]:
        with pytest.raises(ConfigError, match=f"it: the view of layer 0 has .*{message}"):
            PositionsView(positions).check("it", row, query)
    with pytest.raises(ConfigError, match="a chunk of 2 queries"):
        PositionsView(good).check("it", row, torch.randn(4, 2, 8))
