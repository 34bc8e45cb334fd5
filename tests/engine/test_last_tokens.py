"""The prompt's last tokens as chunks of their own, against the naive reading chunk by chunk."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from naive_reattention import Naive
from tiny_models import random_prompt, tiny_model

from reattention_eval import ReAttention, attach
from reattention_eval.attention.chunk_groups import chunk_ends
from reattention_eval.engine.forward_size import ForwardSize
from reattention_eval.errors import ConfigError
from reattention_eval.methods import build_method, method_of_text, method_settings, text_of_method

SIZES = dict(global_size=2, local_size=12, span_size=4, max_spans=4, top_k=3, chunk_size=6)
PAPER = ReAttention(**SIZES)
ALONE = dict(last_tokens=5, last_alone=True)
RULES = [dict(last_tokens=9), dict(last_tokens="document"), ALONE]
by_rule = pytest.mark.parametrize("rule", RULES, ids=str)


def cut(rule, tokens, document):
    """Where the last tokens begin."""
    last = rule["last_tokens"]
    return document if last == "document" else max(0, tokens - last)


def chunks(rule, tokens, document):
    """[begin, end) of each chunk."""
    at, size = cut(rule, tokens, document), 1 if rule.get("last_alone") else 6
    begins = [*range(0, at, 6), *range(at, tokens, size)]
    return list(zip(begins, [*begins[1:], tokens], strict=True))


def read(session, prompt, document=None, **more):
    return session.prefill(prompt, document_tokens=document, **more)


@by_rule
def test_equal_to_reading_piece_by_piece(rule):
    """Under the paper's rule a piece is cut into chunks by itself: the same bits. A turn is cut
    like a prompt, and none of it is document."""
    model, prompt, turn = tiny_model(), random_prompt(61), random_prompt(14, seed=5)
    told = []
    with attach(model, PAPER) as session:
        paper = session.prefill(prompt)
        session.reset_stats()
        for ids, pieces in ((prompt, chunks(rule, 61, 53)), (turn, chunks(rule, 14, 0))):
            for begin, end in pieces:
                part = ids[:, begin:end]
                fresh = ids is prompt and begin == 0
                logits = session.prefill(part) if fresh else session.extend(part)
            told.append(logits)
        views = session.stats.mean_view
    with attach(model, replace(PAPER, **rule)) as session:
        found = [read(session, prompt, 53), session.extend(turn)]
        assert session.stats.mean_view == views
    assert torch.equal(torch.cat(found), torch.cat(told))
    assert not torch.equal(found[0], paper)


def test_more_last_tokens_than_the_prompt_has():
    model, prompt = tiny_model(), random_prompt(40)
    with attach(model, PAPER) as session:
        want = session.prefill(prompt)
    with attach(model, replace(PAPER, last_tokens=100)) as session:
        assert torch.equal(session.prefill(prompt), want)
        assert torch.equal(session.prefill(prompt, reuse_prefix=True), want)
        assert session.stats.reused_tokens == 0


@pytest.mark.parametrize("rule", [RULES[0], ALONE], ids=str)
def test_equal_to_the_paper_as_loops(rule):
    model, prompt = tiny_model(kv_heads=1, layers=1), random_prompt(45)
    naive = Naive(model, **SIZES)
    for begin, end in chunks(rule, 45, None):
        want = naive.chunk(prompt[0, begin:end].tolist())
    with attach(model, replace(PAPER, **rule)) as session:
        found = session.prefill(prompt)[0]
        assert session.stats.layer_steps_selected == {9: 3, 5: 7}[rule["last_tokens"]]
    torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-10)


@by_rule
def test_the_same_cut_whatever_the_forward(rule, monkeypatch):
    """Forwards of many chunks, a user's forward of all: the same keys are chosen."""
    model, prompt = tiny_model(), random_prompt(61)
    method = replace(PAPER, **rule)

    def found():
        with attach(model, method) as session:
            logits = [read(session, prompt, 50), session.extend(random_prompt(20, seed=3))]
            return torch.cat(logits), session.stats

    want, counted = found()
    monkeypatch.setattr(ForwardSize, "choose", lambda self, rows: 240)
    got, again = found()
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    assert again.layer_steps_selected == counted.layer_steps_selected > 0
    assert (again.layer_steps, again.mean_view) == (counted.layer_steps, counted.mean_view)
    if rule["last_tokens"] == "document":
        return
    with attach(model, method) as session:
        mine = session.generate(prompt, 8)
        theirs = model.generate(prompt, max_new_tokens=8, do_sample=False)[:, 61:]
        assert torch.equal(mine, theirs)
        torch.testing.assert_close(model(prompt).logits[:, -1], want[:1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rule", [r for r in RULES if r["last_tokens"] != "document"], ids=str)
def test_rows_of_a_batch_are_what_they_are_alone(rule):
    model, lengths = tiny_model(), (61, 4, 40, 61)
    ids = random_prompt(max(lengths), rows=len(lengths))
    mask = torch.ones_like(ids)
    for row, length in enumerate(lengths):
        mask[row, : ids.shape[1] - length] = 0
    with attach(model, replace(PAPER, **rule)) as session:
        together = session.prefill(ids, mask)
        theirs = model(ids, attention_mask=mask).logits[:, -1]
        for row, length in enumerate(lengths):
            alone = session.prefill(ids[row : row + 1, -length:])[0]
            torch.testing.assert_close(together[row], alone, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(theirs[row], alone, rtol=1e-10, atol=1e-10)


@by_rule
def test_what_was_read_as_last_is_read_again(rule, tmp_path):
    """A, B, A: B shares all of A's document and A's question as its own document."""
    model, whole = tiny_model(), random_prompt(75)
    prompts = [(whole[:, :61], 52), (whole, 66), (whole[:, :61], 52), (whole[:, :55], 20)]
    fresh = []
    with attach(model, replace(PAPER, **rule)) as session:
        for ids, document in prompts:
            session.reset()
            fresh.append(read(session, ids, document))
        session.reset()
        for (ids, document), want in zip(prompts, fresh, strict=True):
            session.reset_stats()
            assert torch.equal(read(session, ids, document, reuse_prefix=True), want)
            # prompts are counted as if nothing had been there
            counted = session.stats.layer_steps + session.reused.layer_steps
            assert counted == 2 * len(chunks(rule, ids.shape[1], document))
            kept = session.stats.reused_tokens
        assert kept == min(cut(rule, 61, 52), cut(rule, 55, 20)) // 6 * 6
        read(session, *prompts[0])
        session.save(tmp_path / "saved")
        turn = random_prompt(13, seed=5)
        later = [session.decode(torch.tensor([[5]])), session.extend(turn)]
        nll = session.answer_nll([3, 4, 5])
    with attach(model, replace(PAPER, **rule)) as session:
        assert torch.equal(session.load(tmp_path / "saved"), fresh[0])
        assert torch.equal(session.decode(torch.tensor([[5]])), later[0])
        assert torch.equal(session.extend(turn), later[1])
        assert session.answer_nll([3, 4, 5]) == nll
        session.load(tmp_path / "saved")
        assert torch.equal(read(session, *prompts[1], reuse_prefix=True), fresh[1])
        assert session.stats.reused_tokens == cut(rule, 61, 52) // 6 * 6


def test_reading_that_was_ended_goes_on():
    model, prompt = tiny_model(), random_prompt(61)
    with attach(model, replace(PAPER, last_tokens=9)) as session:
        want = session.prefill(prompt)
        seen = []
        session.prefill(prompt, progress=seen.append)
        assert seen == [6, 12, 18, 24, 30, 36, 42, 48, 52, 58, 61]
        for end in (24, 52, 58):
            session.reset()
            session.prefill(prompt, progress=lambda read, end=end: read >= end)
            assert session.lengths == [end]
            assert torch.equal(session.prefill(prompt, reuse_prefix=True), want)


def test_as_it_was_where_it_is_unset():
    assert "last_tokens" not in PAPER.settings() and "last_alone" not in PAPER.settings()
    assert build_method(dict(type="reattention", **SIZES, last_tokens=None)) == PAPER
    method = replace(PAPER, last_tokens="document", last_alone=True)
    assert method_of_text(text_of_method(method_settings(method))) == method
    assert method.needs_document_end and not replace(PAPER, last_tokens=3).needs_document_end
    assert [chunk_ends(n, 4) for n in (1, 4, 9)] == [[1], [4], [4, 8, 9]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(last_tokens=0), "number of tokens from 1 to .*'document'.* or None, found 0"),
        (dict(last_tokens=True), "found True"),
        (dict(last_tokens="question"), "found 'question'"),
        (dict(last_alone=True), "give these, as last_tokens='document'"),
    ],
    ids=str,
)
def test_wrong_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        ReAttention(**settings)


def test_a_prompt_must_say_where_its_document_ends():
    model, prompt = tiny_model(), random_prompt(61)
    with attach(model, replace(PAPER, last_tokens="document")) as session:
        want = session.prefill(prompt, document_tokens=50, max_new_tokens=4)
        for call in (session.prefill, session.generate, model):
            with pytest.raises(ConfigError, match="must say where its document ends"):
                call(prompt)
        tokens = session.generate(prompt, 4, document_tokens=50)
        assert tokens[0, 0] == want.argmax()
        with pytest.raises(ConfigError, match="document_tokens is of a single prompt; found 2"):
            session.generate(prompt.repeat(2, 1), document_tokens=50)
