"""Prompts in, tokens out: batches, continuation, reuse, scoring, bounds on memory."""

from __future__ import annotations

import copy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tiny_models import random_prompt, tiny_model

from reattention_eval import FullAttention, ReAttention, StreamingLLM, attach
from reattention_eval.errors import ConfigError

METHODS = [
    ReAttention(global_size=2, local_size=12, span_size=4, max_spans=4, top_k=3, chunk_size=6),
    StreamingLLM(sink_size=2, window_size=20, chunk_size=6),
    FullAttention(chunk_size=6),
]
by_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


def padded_batch(lengths=(61, 24, 40)):
    """Three prompts of different length padded on the left, with their mask."""
    width = max(lengths)
    ids = random_prompt(width, rows=len(lengths))
    mask = torch.ones_like(ids)
    for row, length in enumerate(lengths):
        ids[row, : width - length] = 0
        mask[row, : width - length] = 0
    return ids, mask, lengths


@by_method
def test_each_row_equals_itself_alone(method):
    model = tiny_model()
    ids, mask, lengths = padded_batch()
    with attach(model, method) as session:
        together = [session.prefill(ids, mask)]
        steps = random_prompt(4, rows=3, seed=9)
        together += [session.decode(steps[:, t : t + 1]) for t in range(4)]
        for row, length in enumerate(lengths):
            alone = [session.prefill(ids[row : row + 1, -length:])]
            alone += [session.decode(steps[row : row + 1, t : t + 1]) for t in range(4)]
            for one, many in zip(alone, together, strict=True):
                torch.testing.assert_close(many[row], one[0], rtol=0, atol=1e-11)


@by_method
def test_generate_equals_transformers_generate(method):
    """session.generate and model.generate inside the block, padded batch, stops included."""
    model = tiny_model()
    ids, mask, lengths = padded_batch()
    with attach(model, method) as session:
        mine = session.generate(ids, 12, attention_mask=mask)
        theirs = model.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False)
        assert torch.equal(mine, theirs[:, ids.shape[1] :])
        for row, length in enumerate(lengths):
            alone = session.generate(ids[row : row + 1, -length:], 12)[0]
            assert torch.equal(mine[row, : len(alone)], alone)


def test_rows_stop_on_their_own():
    model = tiny_model()
    ids, mask, _ = padded_batch()
    with attach(model, METHODS[0]) as session:
        free = session.generate(ids, 8, attention_mask=mask)
        end = int(free[1, 2])  # an end token that row 1 reaches at its third token
        model.generation_config.eos_token_id = [end]
        stopped = session.generate(ids, 8, attention_mask=mask)
        theirs = model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False)
    assert torch.equal(stopped, theirs[:, ids.shape[1] :])
    for row in range(3):
        ends = (free[row] == end).nonzero()[:, 0].tolist()
        length = ends[0] + 1 if ends else 8
        assert torch.equal(stopped[row, :length], free[row, :length])
        assert (stopped[row, length:] == 0).all()  # padding


def test_stop_ids_and_stop_function():
    model = tiny_model()
    prompt = random_prompt(30)
    with attach(model, METHODS[0]) as session:
        free = session.generate(prompt, 10)[0].tolist()
        by_id = session.generate(prompt, 10, stop_token_ids=[free[4]])[0].tolist()
        assert by_id == free[: free.index(free[4]) + 1]
        by_rule = session.generate(prompt, 10, stop=lambda tokens: len(tokens) == 3)[0].tolist()
        assert by_rule == free[:3]


def test_beam_search_and_assisted_decoding_raise():
    model = tiny_model()
    prompt = random_prompt(30)
    with attach(model, METHODS[0]):
        with pytest.raises(ConfigError, match="num_beams=1"):
            model.generate(prompt, num_beams=2, max_new_tokens=4)
        with pytest.raises(ConfigError, match="no assistant"):
            model.generate(prompt, assistant_model=tiny_model(layers=1), max_new_tokens=4)


@by_method
def test_generate_continues_after_prefill(method):
    model = tiny_model()
    prompt = random_prompt(47)
    with attach(model, method) as session:
        whole = session.generate(prompt, 6)
        session.reset()
        session.prefill(prompt)
        assert torch.equal(session.generate(max_new_tokens=6), whole)


@by_method
def test_a_shared_prefix_is_reused_bit_for_bit(method):
    model = tiny_model(dtype=torch.float32)
    first, second = random_prompt(50, seed=1), random_prompt(58, seed=2)
    second[:, :33] = first[:, :33]
    with attach(model, method) as session:
        expected = session.prefill(second)
        tokens = session.generate(max_new_tokens=5)
        session.reset()
        session.prefill(first)
        session.generate(max_new_tokens=3)  # decoded tokens must not be taken for prefilled ones
        session.reset_stats()
        logits = session.prefill(second, reuse_prefix=True)
        assert session.stats.reused_tokens == 30  # 33 shared, cut at chunks of 6
        assert session.stats.prefill_tokens == 28
        assert torch.equal(logits, expected)
        assert torch.equal(session.generate(max_new_tokens=5), tokens)
        assert torch.equal(session.prefill(second, reuse_prefix=True), expected)


def test_answer_nll_and_the_session_after_it():
    model = tiny_model()
    prompt = random_prompt(40)
    answer = [7, 11, 5]
    model.set_attn_implementation("sdpa")  # the eager form rounds its softmax to float32
    with torch.inference_mode():
        logits = model(torch.cat((prompt, torch.tensor([answer])), 1)).logits[0, 39:-1]
    expected = -logits.log_softmax(-1)[torch.arange(3), answer].mean()
    with attach(model, FullAttention(chunk_size=7)) as session:
        session.prefill(prompt)
        assert session.answer_nll(answer) == pytest.approx(float(expected), abs=1e-9)
        tokens = session.generate(max_new_tokens=6)
        assert torch.equal(tokens, session.generate(prompt, 6, reuse_prefix=False))


def test_sampling_is_seeded():
    model = tiny_model()
    prompt = random_prompt(40)
    with attach(model, METHODS[0]) as session:
        one = session.generate(prompt, 12, temperature=1.0, seed=3)
        assert torch.equal(one, session.generate(prompt, 12, temperature=1.0, seed=3))
        assert not torch.equal(one, session.generate(prompt, 12, temperature=1.0, seed=4))


def test_deterministic():
    model = tiny_model(dtype=torch.float32)
    prompt = random_prompt(90)
    with attach(model, METHODS[0]) as session:
        first = session.prefill(prompt).clone()
        assert torch.equal(session.prefill(prompt), first)


def test_one_token():
    model = tiny_model()
    with attach(model, METHODS[0]) as session:
        assert session.prefill(random_prompt(1)).shape == (1, 97)


def test_stats():
    model = tiny_model(layers=3)
    model.generation_config.eos_token_id = None
    method = METHODS[0]  # scope 30
    with attach(model, method) as session:
        assert session.stats.layer_steps == 0  # the self-check is not counted
        session.generate(random_prompt(40), 3)
        stats = session.stats
        # chunks end at 6 .. 36, 40; then two single tokens
        assert stats.layer_steps == 3 * (7 + 2)
        assert stats.layer_steps_selected == 3 * (2 + 2)
        assert (stats.prefill_tokens, stats.decode_tokens) == (40, 2)
        assert 0 < stats.mean_view <= method.budget
        assert stats.cache_bytes == 3 * 2 * 2 * 43 * 16 * 8
        assert stats.prefill_seconds > 0
        assert set(stats.as_dict()) >= {"layer_steps", "tokens_per_second", "peak_bytes"}
        session.reset_stats()
        assert session.stats.layer_steps == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.prefill(torch.zeros(1, 0, dtype=torch.long)), "at least one token"),
        (lambda s: s.prefill(torch.zeros(4, dtype=torch.long)), r"\[batch, tokens\]"),
        (lambda s: s.decode(torch.tensor([[1]])), "Call prefill"),
        (lambda s: s.generate(), "nothing to continue"),
        (lambda s: s.generate(torch.tensor([[1]]), 0), "at least 1"),
        (lambda s: s.answer_nll([1]), "Call prefill"),
        (
            lambda s: s.prefill(torch.tensor([[3, 0]]), torch.tensor([[1, 0]])),
            "not padded on the left",
        ),
        (
            lambda s: s.prefill(torch.tensor([[3, 0]]), torch.tensor([[1]])),
            "must have the shape",
        ),
        (
            lambda s: s.model(torch.tensor([[3, 4]]), attention_mask=torch.tensor([[1, 0]])),
            "padding_side",
        ),
    ],
    ids=["empty", "flat", "decode", "generate", "no-room", "nll", "right-pad", "mask", "forward"],
)
def test_bad_input(call, message):
    with attach(tiny_model(), METHODS[0]) as session, pytest.raises(ConfigError, match=message):
        call(session)


def test_rows_cannot_change_in_mid_air():
    with attach(tiny_model(), METHODS[0]) as session:
        session.prefill(random_prompt(20, rows=2))
        with pytest.raises(ConfigError, match=r"2 prefilled rows"):
            session.decode(torch.tensor([[1]]))


def test_a_foreign_cache_is_refused():
    model = tiny_model()
    prompt = random_prompt(20)
    past = model(prompt, use_cache=True).past_key_values
    with attach(model, METHODS[0]), pytest.raises(ConfigError, match=r"20 tokens .* not seen"):
        model(prompt[:, :1], past_key_values=past)


@pytest.mark.parametrize("method", [METHODS[0], "native_full"], ids=["hooked", "native"])
def test_two_threads_do_not_mix_their_prompts(method):
    model = tiny_model()
    with attach(model, method) as session, ThreadPoolExecutor(1) as other:
        expected = session.generate(random_prompt(20), 5)
        refused = []

        def meanwhile(tokens):
            calls = [lambda: session.generate(random_prompt(30, seed=1), 5)]
            if method is METHODS[0]:
                calls.append(lambda: model(random_prompt(30, seed=1)))
            for call in calls:
                refused.append(other.submit(call).exception())
            return False

        assert torch.equal(session.generate(random_prompt(20), 5, stop=meanwhile), expected)
        assert len(refused) >= 5
        assert {type(error) for error in refused} == {ConfigError}
        assert all("another thread is using this model" in str(error) for error in refused)
        after = other.submit(session.generate, random_prompt(20), 5).result()
        assert torch.equal(after, expected) and torch.is_grad_enabled()


def test_a_users_forward_has_no_gradients():
    """Those of attention would lack, and the others would look whole."""
    model, prompt = tiny_model(), random_prompt(20)
    with attach(model, METHODS[0]):
        with pytest.raises(RuntimeError, match="does not require grad"):
            model(prompt, output_hidden_states=True).hidden_states[-1].sum().backward()
        assert torch.is_grad_enabled()
        for wrong in (dict(labels=prompt), dict(attention_mask=torch.zeros(1, 1, 20, 20))):
            with pytest.raises(ConfigError):
                model(prompt, **wrong)
            assert torch.is_grad_enabled()
        with torch.no_grad():
            model(prompt)
            assert not torch.is_grad_enabled()
    model(prompt).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_ctrl_c_in_a_users_forward_leaves_gradients_on():
    model, prompt = tiny_model(), random_prompt(20)

    def interrupted(*_):
        raise KeyboardInterrupt

    with attach(model, METHODS[0]) as session, ThreadPoolExecutor(1) as other:
        expected = session.prefill(prompt)
        with model.model.layers[1].register_forward_hook(interrupted):
            for read in (model, model, session.prefill, session.prefill):
                with pytest.raises(KeyboardInterrupt):
                    read(prompt)
        torch.testing.assert_close(model(prompt).logits[:, -1], expected)
        assert torch.equal(other.submit(session.prefill, prompt).result(), expected)
        interrupting = model.model.layers[1].register_forward_hook(interrupted)
        with interrupting, pytest.raises(KeyboardInterrupt):
            model(prompt)
    assert torch.is_grad_enabled()


def test_the_cache_of_an_earlier_prompt_is_refused():
    model, one, other = tiny_model(), random_prompt(20), random_prompt(30, seed=3)
    with attach(model, METHODS[0]) as session:
        first = model(one).past_key_values
        second = model(other).past_key_values
        session.prefill(other)
        expected = session.decode(one[:, :1])
        with pytest.raises(ConfigError, match="cache of an earlier prompt"):
            model(one[:, :1], past_key_values=first)
        with pytest.raises(ConfigError, match="cache of an earlier prompt"):
            model(one[:, :1], past_key_values=second)
        held = model(other).past_key_values
        assert torch.equal(model(one[:, :1], past_key_values=held).logits[:, -1], expected)
        with pytest.raises(ConfigError, match="cache of an earlier prompt"):
            model(one[:, :1], past_key_values=copy.deepcopy(held))
        session.prefill(one)
        with pytest.raises(ConfigError, match="cache of an earlier prompt"):
            model(one[:, :1], past_key_values=held)


def test_extra_memory_does_not_grow_with_the_prompt():
    """Peak resident memory of a prefill, beyond the KV cache, at 8K and at 24K tokens."""
    script = Path(__file__).with_name("prefill_memory.py")
    run = subprocess.run(
        [sys.executable, str(script), "8192", "24576"], capture_output=True, text=True, check=True
    )
    short, long = map(int, run.stdout.split())
    # scores of one query chunk over the 16K further keys would be 67 MB for each head
    assert long - short < 24e6, (short, long)


@pytest.mark.parametrize("method", [METHODS[0], "native_full"], ids=["hook", "native"])
def test_an_answer_that_fails_midway_leaves_the_session_as_it_was(method, monkeypatch):
    model, prompt = tiny_model(), random_prompt(40)
    with attach(model, method) as session:
        expected = session.generate(prompt, 5)
        session.prefill(prompt)
        step, calls = session._step, []

        def failing(tokens, rows):
            calls.append(tokens)
            if len(calls) == 3:
                raise RuntimeError("out of memory")
            return step(tokens, rows)

        monkeypatch.setattr(session, "_step", failing)
        with pytest.raises(RuntimeError, match="out of memory"):
            session.answer_nll([5, 6, 7, 8, 9])
        monkeypatch.undo()
        assert session.lengths == [40]
        assert torch.equal(session.generate(max_new_tokens=5), expected)
