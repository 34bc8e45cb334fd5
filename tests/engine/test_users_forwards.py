"""Forwards of a user's own inside the block: what the session gives for the same tokens, or one
sentence."""

from __future__ import annotations

import pytest
import torch
from tiny_models import random_prompt, tiny_model
from transformers import DynamicCache

from reattention_eval import FullAttention, ReAttention, attach
from reattention_eval.errors import ConfigError

METHOD = ReAttention(global_size=2, local_size=12, span_size=4, max_spans=4, top_k=3, chunk_size=6)
PROMPT, TURN, NEXT = random_prompt(60), random_prompt(31, seed=5), torch.tensor([[5]])
MODEL = tiny_model()


def past_of(ids):
    return MODEL(ids).past_key_values


def mask_of(*shown):
    return torch.tensor([[1] * n + [0] * (61 - n) for n in shown])


def own_cache():
    cache = DynamicCache(config=MODEL.config)
    MODEL(PROMPT, past_key_values=cache)
    return cache


def emptied(session):
    past = past_of(PROMPT)
    session.reset()
    return past


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda _: MODEL(NEXT, past_key_values=past_of(PROMPT), attention_mask=mask_of(50).flip(1)),
         "shows 49 tokens of row 0 before the forward's own, and the attached method holds 60"),
        (lambda _: MODEL(PROMPT, attention_mask=mask_of(61)), "holds 0"),
        (lambda _: MODEL(PROMPT.repeat(2, 1), attention_mask=mask_of(60, 0)[:, :60]), "is empty"),
        (lambda s: MODEL(NEXT, past_key_values=emptied(s)), "cache of an earlier prompt"),
        (lambda _: MODEL(NEXT, past_key_values=own_cache()), "DynamicCache that an earlier one"),
        (lambda _: MODEL(NEXT, past_key_values=((PROMPT, PROMPT),)), "is a tuple, no cache"),
        (lambda _: past_of(PROMPT).reset(), r"session\.reset\(\)"),
    ],
)  # fmt: skip
def test_one_sentence(call, message):
    with attach(MODEL, METHOD) as session, pytest.raises(ConfigError, match=message):
        call(session)


def test_what_is_refused_leaves_the_prompt():
    with attach(MODEL, METHOD) as session:
        session.prefill(PROMPT)
        expected = session.generate(max_new_tokens=4)
        session.prefill(PROMPT)
        with pytest.raises(ConfigError, match="is empty"):
            MODEL(PROMPT.repeat(2, 1), attention_mask=mask_of(60, 0)[:, :60])
        assert torch.equal(session.generate(max_new_tokens=4), expected)


def test_the_decoder_alone_takes_the_cache_too():
    with attach(MODEL, METHOD) as session:
        expected = session.prefill(PROMPT)
        session.prefill(TURN)
        hidden = MODEL.model(PROMPT).last_hidden_state
        with pytest.raises(ConfigError, match="Call prefill first"):
            session.generate()
        assert not hidden.requires_grad
        assert torch.is_grad_enabled()
        logits = MODEL.lm_head(hidden[:, -1])
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)


def test_a_row_that_waits():
    """Its mask shows none of a forward's tokens."""
    with attach(MODEL, METHOD) as session:
        past = past_of(PROMPT.repeat(2, 1))
        mask = torch.tensor([[1] * 62, [1] * 60 + [0, 1]])
        for i, tokens in enumerate(([[5], [0]], [[6], [7]])):
            shown = mask[:, : 61 + i]
            out = MODEL(torch.tensor(tokens), past_key_values=past, attention_mask=shown)
        assert session.lengths == [62, 61]
        session.prefill(PROMPT)
        alone = session.decode(torch.tensor([[7]]))[0]
        torch.testing.assert_close(out.logits[1, -1], alone, rtol=0, atol=1e-12)


def test_a_cache_of_ones_own_begins_every_prompt_of_generate():
    MODEL.generation_config.eos_token_id = None
    with attach(MODEL, METHOD) as session:
        cache, whole = DynamicCache(config=MODEL.config), torch.cat((PROMPT, TURN), 1)
        for prompt in (PROMPT, whole):
            found = MODEL.generate(prompt, past_key_values=cache, max_new_tokens=4, do_sample=False)
            expected = session.generate(prompt, 4)
            assert torch.equal(found[:, prompt.shape[1] :], expected)


def test_a_turn_has_the_rope_of_its_whole_length():
    """As in transformers, whose scaling by length looks at a forward's last token."""
    model = tiny_model(window=64, rope_scaling=dict(rope_type="dynamic", factor=2.0))
    with torch.no_grad():
        plain = model(TURN, past_key_values=model(PROMPT).past_key_values).logits[:, -1]
    with attach(model, FullAttention(chunk_size=6)) as session:
        session.prefill(PROMPT)
        extended = session.extend(TURN)
        found = model(TURN, past_key_values=model(PROMPT).past_key_values).logits[:, -1]
    torch.testing.assert_close(found, extended, rtol=0, atol=1e-12)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-4)  # angles are float32
