"""Rows that grow beyond what was said when they began: the tier is asked again, and what has no
room is refused before it is computed."""

from __future__ import annotations

import pytest
import torch
from small_tiers import make_tiers_small
from tiny_models import random_prompt, tiny_model

from reattention_eval import ReAttention, attach
from reattention_eval.cache import device_room, host_memory
from reattention_eval.errors import DeviceMemoryError, HostMemoryError

METHOD = ReAttention(global_size=2, local_size=12, span_size=4, max_spans=4, top_k=3, chunk_size=6)
PROMPT = random_prompt(60)
TOKEN_BYTES = 2 * 2 * 2 * 16 * 8  # layers, keys and values, heads, their size, doubles


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    make_tiers_small(monkeypatch)


def unending(seed=0):
    model = tiny_model(seed=seed)
    model.generation_config.eos_token_id = None
    return model


def decoded(session, model):
    session.prefill(PROMPT)
    return torch.cat([session.decode(torch.tensor([[3 + i % 90]])) for i in range(100)])


def generated(session, model):
    session.prefill(PROMPT)
    return session.generate(max_new_tokens=100)


def continued(session, model):
    return torch.cat([session.generate(PROMPT, 5), session.generate(max_new_tokens=100)], 1)


def scored(session, model):
    session.prefill(PROMPT)
    return torch.tensor(session.answer_nll(random_prompt(90, seed=5)[0]))


def by_the_model(session, model):
    return model.generate(PROMPT, max_new_tokens=100, do_sample=False, pad_token_id=0)


def turns_of_the_model(session, model):
    past, found = None, []
    for i in range(4):
        out = model(random_prompt(60, seed=i), past_key_values=past)
        past = out.past_key_values
        found.append(out.logits[:, -1])
    return torch.cat(found)


WAYS = [decoded, generated, continued, scored, by_the_model, turns_of_the_model]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_auto_goes_on_keeping_all_where_it_fits(way):
    model, found = unending(), []
    for cache in ("device", "auto"):
        with attach(model, METHOD, cache=cache) as session:
            found.append(way(session, model))
            stats = session.stats
            assert (stats.cache_host_bytes, stats.bytes_to_host, stats.bytes_from_host) == (0, 0, 0)
    assert torch.equal(*found)


def test_auto_does_so_in_storage_that_was_made_for_a_longer_prompt():
    turn = random_prompt(200, seed=4)
    with attach(unending(), METHOD, cache="auto") as session:
        session.prefill(random_prompt(150))
        session.prefill(PROMPT)
        session.extend(turn)
        assert session.stats.cache_host_bytes == session.stats.bytes_to_host == 0


@pytest.mark.parametrize("cache", ["device", "values_on_host", "host", "auto"])
def test_what_has_no_room_is_refused_before_it_is_computed(cache, monkeypatch):
    with attach(unending(), METHOD) as session:
        expected = session.generate(PROMPT, 40)
    with attach(unending(), METHOD, cache=cache) as session:
        first = session.generate(PROMPT, 10)  # its last token is not read yet
        with monkeypatch.context() as patch:
            left = 10 * TOKEN_BYTES
            patch.setattr(device_room, "free_bytes", lambda device: left)
            patch.setattr(host_memory, "main_memory", lambda: host_memory.SPARE_BYTES + left)
            errors = DeviceMemoryError, HostMemoryError
            with pytest.raises(errors, match=r"1 x 570 tokens .*about \d+ tokens"):
                session.generate(max_new_tokens=500)
            with pytest.raises(errors, match=r"1 x 220 tokens .*about \d+ tokens"):
                session.answer_nll([5] * 150)
        assert session.lengths == [69]
        assert torch.equal(torch.cat((first, session.generate(max_new_tokens=30)), 1), expected)


def test_a_token_without_room_leaves_the_session_as_it_was(monkeypatch):
    token = torch.tensor([[5]])
    with attach(unending(), METHOD) as session:
        session.prefill(PROMPT, max_new_tokens=1)
        expected = session.decode(token)
    with attach(unending(), METHOD) as session:
        session.prefill(PROMPT)
        with monkeypatch.context() as patch:
            patch.setattr(device_room, "free_bytes", lambda device: 0)
            with pytest.raises(DeviceMemoryError, match="1 x 61 tokens"):
                session.decode(token)
        assert torch.equal(session.decode(token), expected)


def test_what_was_saved_and_has_no_room_leaves_the_session_as_it_was(monkeypatch, tmp_path):
    with attach(unending(), METHOD) as session:
        session.prefill(random_prompt(90, seed=2))
        session.save(tmp_path / "kept")
        expected = session.generate(PROMPT, 8)
        session.prefill(PROMPT)
        with monkeypatch.context() as patch:
            patch.setattr(device_room, "free_bytes", lambda device: 0)
            with pytest.raises(DeviceMemoryError, match="1 x 9,090 tokens"):
                session.load(tmp_path / "kept", max_new_tokens=9000)
        assert torch.equal(session.generate(max_new_tokens=8), expected)


def test_a_forward_of_the_users_own_without_room_can_be_tried_again(monkeypatch):
    model = unending()
    with attach(model, METHOD):
        past = model(PROMPT).past_key_values
        with monkeypatch.context() as patch:
            patch.setattr(device_room, "free_bytes", lambda device: 0)
            with pytest.raises(DeviceMemoryError, match="1 x 61 tokens"):
                model(torch.tensor([[5]]), past_key_values=past)
        found = model(torch.tensor([[5]]), past_key_values=past).logits
    with attach(model, METHOD) as session:
        session.prefill(PROMPT)
        want = session.decode(torch.tensor([[5]]))
    torch.testing.assert_close(found[:, -1], want, rtol=0, atol=1e-12)


def test_the_last_of_the_memory_is_used(monkeypatch):
    """Where thousands of tokens more have no room, those that are asked for may have it."""
    with attach(unending(), METHOD) as session:
        session.prefill(PROMPT)
        monkeypatch.setattr(device_room, "free_bytes", lambda device: 12 * TOKEN_BYTES)
        session.generate(max_new_tokens=10)
        with pytest.raises(DeviceMemoryError, match="1 x 90 tokens"):
            session.generate(max_new_tokens=20)
