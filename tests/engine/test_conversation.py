"""A session goes on, says when it is over, and never answers from what is not a number."""

from __future__ import annotations

import pytest
import torch
from repeats import repeat_without_gpu
from tiny_models import random_prompt, tiny_model

from reattention_eval import FullAttention, ReAttention, StreamingLLM, attach
from reattention_eval.attention.layer_answers import LayerAnswers
from reattention_eval.errors import ConfigError, NonFiniteLogitsError

METHODS = [
    ReAttention(global_size=2, local_size=12, span_size=4, max_spans=4, top_k=3, chunk_size=6),
    StreamingLLM(sink_size=2, window_size=20, chunk_size=6),
    FullAttention(chunk_size=6),
]
by_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


def padded(lengths, seed=1):
    width = max(lengths)
    ids = random_prompt(width, rows=len(lengths), seed=seed)
    mask = torch.ones_like(ids)
    for row, length in enumerate(lengths):
        ids[row, : width - length] = -100  # not shown to the model, so it may be anything
        mask[row, : width - length] = 0
    return ids, mask


@pytest.mark.parametrize("eos", [2, None])
def test_extend_is_the_whole_conversation_read_at_once(eos):
    """Under full attention; a batch whose rows stop at different tokens."""
    model = tiny_model()
    prompts, turns = padded((31, 7, 20)), padded((5, 13, 8), seed=4)
    model.generation_config.eos_token_id = eos
    with attach(model, METHODS[2]) as session:
        free = session.generate(prompts[0], 6, prompts[1])
        end = [] if eos is None else [int(free[0, 2])]
        new = session.generate(prompts[0], 6, prompts[1], stop_token_ids=end)
        before = session.stats.prefill_tokens
        together = session.extend(*turns)
        assert session.stats.prefill_tokens - before == 5 + 13 + 8
        lengths = session.lengths
        for row in range(3):
            answer = new[row].tolist()
            ends = [i for i, token in enumerate(answer) if token in {*end, eos}]
            answer = answer[: ends[0] + 1] if ends else answer
            said = [ids[row][mask[row].bool()].tolist() for ids, mask in (prompts, turns)]
            whole = torch.tensor([said[0] + answer + said[1]])
            assert lengths[row] == whole.shape[1]
            alone = session.prefill(whole)[0]
            torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-11)


@by_method
def test_a_turn_of_a_batch_is_the_turn_alone(method):
    model = tiny_model()
    prompts, turns = padded((61, 24, 40)), padded((5, 13, 8), seed=4)
    with attach(model, method) as session:
        session.generate(prompts[0], 3, prompts[1])
        together = session.extend(*turns)
        after = session.generate(max_new_tokens=4)
        for row in range(3):
            ids, turn = (x[row][m[row].bool()][None] for x, m in (prompts, turns))
            session.generate(ids, 3)
            torch.testing.assert_close(session.extend(turn)[0], together[row], rtol=0, atol=1e-11)
            assert torch.equal(session.generate(max_new_tokens=4)[0], after[row])


@by_method
def test_generate_after_generate(method):
    model = tiny_model()
    model.generation_config.eos_token_id = None
    ids, mask = padded((47, 20))
    with attach(model, method) as session:
        whole = session.generate(ids, 9, mask)
        parts = [session.generate(ids, 2, mask), session.generate(max_new_tokens=3)]
        parts.append(session.generate(max_new_tokens=4))
        assert torch.equal(torch.cat(parts, 1), whole)
        with pytest.raises(ConfigError, match=r"would read one twice"):
            session.decode(torch.tensor([[4], [4]]))


@torch.inference_mode()
def test_logits_are_the_callers_own(tmp_path):
    prompt, token = random_prompt(40), torch.tensor([[5]])
    with attach(tiny_model(), METHODS[0]) as session:
        session.prefill(prompt)
        session.save(tmp_path / "kept")
        calls = (
            lambda: session.prefill(prompt), lambda: session.decode(token),
            lambda: session.extend(prompt), lambda: session.load(tmp_path / "kept"),
        )  # fmt: skip
        for call in calls:
            logits = call()
            expected = session.answer_nll([7])
            logits.fill_(1.0)
            assert session.answer_nll([7]) == expected


def test_extend_as_graphs(monkeypatch):
    def run():
        with attach(tiny_model(layers=2), ReAttention(4, 64, 8, 3, 9, chunk_size=64)) as session:
            found = []
            for turn in range(3):
                if turn:
                    session.extend(random_prompt(25, seed=turn), max_new_tokens=30)
                else:
                    session.prefill(random_prompt(100), max_new_tokens=30)
                found.append(session.generate(max_new_tokens=20)[0].tolist())
            return found

    expected = run()
    rooms = repeat_without_gpu(monkeypatch)
    assert run() == expected
    assert rooms


def test_a_users_forward_takes_the_cache():
    model = tiny_model()
    first, second = random_prompt(40, seed=1), random_prompt(40, seed=2)
    with attach(model, METHODS[0]) as session:
        expected = session.prefill(first)
        model.generate(second, max_new_tokens=3, do_sample=False)
        assert torch.equal(session.prefill(first, reuse_prefix=True), expected)
        model(second)
        for call in (lambda: session.extend(first), lambda: session.generate()):
            with pytest.raises(ConfigError, match="Call prefill first"):
                call()


def test_stats_count_model_generate():
    model = tiny_model()
    model.generation_config.eos_token_id = None
    with attach(model, METHODS[0]) as session:
        ids, mask = padded((40, 9))
        model.generate(ids.clamp(0), attention_mask=mask, max_new_tokens=4, do_sample=False)
        stats = session.stats
        assert (stats.prefill_tokens, stats.decode_tokens) == (49, 6)
        assert stats.prefill_seconds > 0 < stats.decode_seconds
        session.reset_stats()
        assert session.stats.prefill_tokens == 0


def test_closed():
    model = tiny_model()
    with attach(model, METHODS[0]) as session:
        session.prefill(random_prompt(9))
    one = torch.tensor([[4]])
    calls = (
        lambda: session.prefill(one), lambda: session.extend(one), lambda: session.decode(one),
        lambda: session.generate(one), lambda: session.generate(), session.reset,
        lambda: session.answer_nll([4]),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(ConfigError, match="session is closed"):
            call()
    assert session.stats.prefill_tokens == 9


class Listener:
    def __init__(self):
        self.heard, self.ended = [], False

    def put(self, value):
        self.heard.append(value)

    def end(self):
        self.ended = True


def test_streamer_hears_what_transformers_tells_it():
    model = tiny_model()
    prompt = random_prompt(40)
    mine, theirs = Listener(), Listener()
    with attach(model, METHODS[0]) as session:
        session.generate(prompt, 7, streamer=mine)
        model.generate(prompt, max_new_tokens=7, do_sample=False, streamer=theirs)
    assert mine.ended and len(mine.heard) == len(theirs.heard) > 2
    assert all(torch.equal(a, b) for a, b in zip(mine.heard, theirs.heard, strict=True))


def test_streamer_of_a_batch_and_of_a_continuation():
    model = tiny_model()
    ids, mask = padded((30, 12))
    heard = Listener()
    with attach(model, METHODS[0]) as session:
        session.prefill(ids, mask)
        tokens = session.generate(max_new_tokens=6, streamer=heard)
    assert heard.heard[0].shape == (2, 0)
    assert torch.equal(torch.stack(heard.heard[1:], 1), tokens)


@pytest.mark.parametrize("settings", [{"top_k": 1}, {"top_p": 1e-6}], ids=str)
def test_the_narrowest_cut_is_greedy(settings):
    model = tiny_model()
    prompt = random_prompt(40)
    with attach(model, METHODS[0]) as session:
        greedy = session.generate(prompt, 8)
        assert torch.equal(session.generate(prompt, 8, temperature=2.0, **settings), greedy)


def test_top_k_and_top_p_keep_to_the_most_likely():
    model = tiny_model()
    prompt = random_prompt(40)
    with attach(model, METHODS[0]) as session:
        order = session.prefill(prompt)[0].sort(descending=True)
        nucleus = int((order.values.softmax(-1).cumsum(-1) < 0.7).sum()) + 1
        for settings, kept in (({"top_k": 5}, 5), ({"top_p": 0.7}, nucleus)):
            allowed = set(order.indices[:kept].tolist())
            for seed in range(40):
                token = session.generate(prompt, 1, temperature=1.0, seed=seed, **settings)
                assert int(token) in allowed


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_not_numbers(value):
    model = tiny_model()
    prompt = random_prompt(20)
    kept = model.lm_head.weight.data.clone()
    with attach(model, METHODS[0]) as session:
        session.prefill(prompt)
        model.lm_head.weight.data[5] = value
        calls = (
            lambda: session.answer_nll([4, 7]), lambda: session.prefill(prompt),
            lambda: session.generate(prompt, 4), lambda: model.generate(prompt, max_new_tokens=4),
            lambda: session.generate(prompt, 4, temperature=1.0),
        )  # fmt: skip
        for call in calls:
            with pytest.raises(NonFiniteLogitsError, match=r"NaN and .* infinite .* float16"):
                call()
        for call in (session.generate, lambda: session.decode(prompt[:, :1])):
            model.lm_head.weight.data.copy_(kept)
            session.prefill(prompt)
            model.lm_head.weight.data[5] = value
            with pytest.raises(NonFiniteLogitsError):
                call()
            with pytest.raises(ConfigError, match="Call prefill first"):
                session.generate()
        model.lm_head.weight.data.copy_(kept)
        session.prefill(prompt)


ONE = torch.tensor([[4, 5, 6]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.model(ONE, labels=ONE), "labels were given"),
        (lambda s: s.model(ONE, use_cache=False), "use_cache=False was given"),
        (lambda s: s.model.generate(ONE, max_new_tokens=3, use_cache=False), "use_cache=False"),
        (lambda s: s.model(ONE, output_attentions=True), "output_attentions"),
        (lambda s: s.model(ONE, position_ids=ONE), "position_ids of row 0"),
        (lambda s: s.model(ONE, None, ONE), "position_ids of row 0"),
        (lambda s: s.model(ONE * 30), "holds 120 in row 0, token 0: .* 0 to 96"),
        (lambda s: s.model(ONE[0]), r"\[batch, tokens\]"),
        (lambda s: s.model(), "one|tokens"),
        (lambda s: s.prefill(ONE * 30), "holds 120 in row 0, token 0: .* 0 to 96"),
        (lambda s: s.prefill(-ONE), "holds -4"),
        (lambda s: s.prefill([[4, 5]]), r"found list; torch\.tensor"),
        (lambda s: s.prefill("text"), "found str"),
        (lambda s: s.prefill({"input_ids": ONE}), "pass its 'input_ids'"),
        (lambda s: s.prefill(ONE.float()), r"whole numbers.*float32"),
        (lambda s: s.prefill(ONE, [1, 1, 1]), "attention_mask must be a tensor"),
        (lambda s: (s.prefill(ONE), s.decode(torch.tensor([[97]]))), "token_ids holds 97"),
        (lambda s: (s.prefill(ONE), s.decode([[4]])), "token_ids must be a tensor"),
        (lambda s: (s.prefill(ONE), s.answer_nll("abc")), "answer_ids must be|a token of answer"),
        (lambda s: (s.prefill(ONE), s.answer_nll([97])), "answer_ids holds 97"),
        (lambda s: s.extend(ONE), "Call prefill first"),
        (lambda s: (s.prefill(ONE), s.extend(ONE.repeat(2, 1))), "each of the 1 rows"),
        (lambda s: s.generate(ONE, 2.5), "whole number, found 2.5"),
        (lambda s: s.generate(ONE, temperature=float("nan")), "temperature must be a finite"),
        (lambda s: s.generate(ONE, top_p=0.5), "give a temperature"),
        (lambda s: s.generate(ONE, temperature=1.0, top_p=1.5), "top_p must be above 0"),
        (lambda s: s.generate(ONE, temperature=1.0, top_k=0), "top_k must be at least 1"),
        (lambda s: s.generate(ONE, seed=-1), "seed must be at least 0"),
        (lambda s: s.generate(ONE, stop="\n"), "stop must be a function"),
        (lambda s: s.generate(ONE, stop_token_ids="\n"), "stop_token_ids must be"),
        (lambda s: s.generate(ONE, streamer=print), "put and end"),
    ],
)  # fmt: skip
def test_one_sentence(call, message):
    with attach(tiny_model(), METHODS[0]) as session, pytest.raises(ConfigError, match=message):
        call(session)


def test_places_that_count_on_are_taken():
    model = tiny_model()
    with attach(model, METHODS[0]):
        places = torch.arange(40)[None]
        prompt = random_prompt(40)
        assert torch.equal(model(prompt, position_ids=places).logits, model(prompt).logits)


@by_method
def test_equal_rows_are_one_call(method, monkeypatch):
    """Every layer answers a chunk of all rows at once, until rows select."""
    rows, answer = [], LayerAnswers._answer

    def counted(self, layer, row, query, *args):
        rows.append((query.shape[0], args[-1].selects))
        return answer(self, layer, row, query, *args)

    monkeypatch.setattr(LayerAnswers, "_answer", counted)
    with attach(tiny_model(), method) as session:
        rows.clear()
        prompt = random_prompt(40, rows=3)
        session.prefill(prompt)
        own = [session.stats.layer_steps, session.stats.mean_view]
        whole = 2 * (7 if method.budget is None else method.budget // 6)
        assert rows.count((3, False)) == whole
        assert session.stats.layer_steps == 2 * 7 * 3
        session.reset_stats()
        for row in range(3):
            session.prefill(prompt[row : row + 1])
        assert own == [session.stats.layer_steps, session.stats.mean_view]
