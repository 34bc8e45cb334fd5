"""What fails or is refused leaves a session that goes on rightly, or says what it needs."""

from __future__ import annotations

import math
import weakref
from contextlib import contextmanager, nullcontext

import pytest
import torch
from small_tiers import make_tiers_small
from tiny_models import random_prompt, tiny_model

from reattention_eval import ReAttention, attach
from reattention_eval.attention import room
from reattention_eval.cache import capacity, host_keys, host_memory, values
from reattention_eval.errors import ConfigError, DeviceMemoryError, HostMemoryError

METHOD = ReAttention(global_size=2, local_size=12, span_size=4, max_spans=4, top_k=3, chunk_size=6)
TOKEN_BYTES = 2 * 16 * 8  # keys of a layer
PROMPT, NEXT = random_prompt(60), torch.tensor([[5]])


class Boom(Exception):
    pass


def failing(module):
    """The module's next call fails."""

    def fail(*_):
        handle.remove()
        raise Boom

    handle = module.register_forward_pre_hook(fail)


@pytest.mark.parametrize("at", ["lm_head", "model.layers.1.mlp"])
@pytest.mark.parametrize("method", [METHOD, "native_full"], ids=str)
def test_a_token_is_not_read_twice(method, at):
    model = tiny_model()
    with attach(model, method) as session:
        session.prefill(PROMPT)
        failing(model.get_submodule(at))
        with pytest.raises(Boom):
            session.decode(NEXT)
        for call in (lambda: session.decode(NEXT), session.generate):
            with pytest.raises(ConfigError, match="Call prefill first"):
                call()
        session.prefill(PROMPT)
        found = session.decode(NEXT)
    with attach(model, method) as session:
        session.prefill(PROMPT)
        assert torch.equal(session.decode(NEXT), found)


def test_nor_by_forwards_of_the_users_own():
    model = tiny_model()
    with attach(model, METHOD) as session:
        past = model(PROMPT).past_key_values
        failing(model.lm_head)
        with pytest.raises(Boom):
            model(NEXT, past_key_values=past)
        with pytest.raises(ConfigError, match="whose last forward failed"):
            model(NEXT, past_key_values=past)
        found = model(NEXT, past_key_values=model(PROMPT).past_key_values).logits[:, -1]
        session.prefill(PROMPT)
        torch.testing.assert_close(session.decode(NEXT), found, rtol=0, atol=1e-12)


def test_what_was_refused_is_no_plan_of_the_next_forward():
    model = tiny_model()
    with attach(model, METHOD) as session:
        with (
            torch.autocast("cpu", dtype=torch.bfloat16),
            pytest.raises(ConfigError, match="autocast"),
        ):
            session.prefill(PROMPT[:, :50])
        found = model(PROMPT).logits[:, -1]
        torch.testing.assert_close(session.prefill(PROMPT), found, rtol=0, atol=1e-12)


def test_a_prompt_without_room_leaves_what_it_shares_with(monkeypatch):
    def no_room(*_):
        raise DeviceMemoryError("no room")

    with attach(tiny_model(), METHOD) as session:
        session.prefill(PROMPT)
        expected = session.generate(max_new_tokens=6)
        session.prefill(PROMPT)
        with monkeypatch.context() as patch:
            patch.setattr(room, "require_device", no_room)
            with pytest.raises(DeviceMemoryError):
                session.prefill(torch.cat((PROMPT[:, :30], PROMPT), 1), reuse_prefix=True)
        assert session.lengths == [60]
        assert torch.equal(session.generate(max_new_tokens=6), expected)


def test_a_prompt_without_room_may_cost_what_was_moved_for_it(monkeypatch):
    """Cache "auto" has given the device's keys back when the host turns out to be too small."""
    make_tiers_small(monkeypatch)
    with attach(tiny_model(), METHOD, cache="auto") as session:
        session.prefill(PROMPT)
        monkeypatch.setattr(capacity, "_fits", lambda *_: False)
        monkeypatch.setattr(host_memory, "main_memory", lambda: 0)
        with pytest.raises(HostMemoryError):
            session.prefill(random_prompt(500))
        with pytest.raises(ConfigError, match="Call prefill first"):
            session.generate()


def test_memory_that_ended_on_the_way_is_there_for_the_next_prompt(monkeypatch):
    """Layers that had made more room hold no memory that the others lack then."""
    limit, real = 2 * 2.5 * 600 * TOKEN_BYTES, values.storage  # of two layers, not of three
    monkeypatch.setattr(room, "GROWTH_TOKENS", 0)
    model, held = tiny_model(layers=4), [0]

    def storage(shape, like):
        nbytes = math.prod(shape) * like.element_size()
        if held[0] + nbytes > limit:
            raise MemoryError
        made = real(shape, like)
        held[0] += nbytes
        weakref.finalize(made, lambda: held.__setitem__(0, held[0] - nbytes))
        return made

    with attach(model, METHOD) as session:
        found = session.prefill(random_prompt(200))
    monkeypatch.setattr(values, "storage", storage)
    with attach(model, METHOD) as session:
        session.prefill(random_prompt(100))
        with pytest.raises(MemoryError):
            session.answer_nll([5] * 500)
        assert held[0] > 0.9 * limit
        assert torch.equal(session.prefill(random_prompt(200)), found)


def test_keys_on_the_host_are_there_where_more_room_on_the_device_failed(monkeypatch, tmp_path):
    def full(*_):
        raise torch.OutOfMemoryError

    make_tiers_small(monkeypatch)
    with attach(tiny_model(), METHOD) as session:
        expected = session.generate(PROMPT, 12)
    with attach(tiny_model(), METHOD, cache="host") as session:
        session.prefill(PROMPT)
        with monkeypatch.context() as patch:
            patch.setattr(host_keys, "storage", full)
            with pytest.raises(torch.OutOfMemoryError):
                session.generate(max_new_tokens=12)
        session.save(tmp_path / "kept")
        session.load(tmp_path / "kept")
        assert torch.equal(session.generate(max_new_tokens=12), expected)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_prompt_that_could_not_begin_leaves_an_empty_session(rows, layer, monkeypatch):
    """Of another number of rows too, and whichever layer had no room."""
    left, real = [2 * layer], values.storage

    def storage(*asked):
        left[0] -= 1
        if left[0] < 0:
            raise MemoryError
        return real(*asked)

    batch = random_prompt(90, rows)
    with attach(tiny_model(), METHOD) as session:
        expected = session.prefill(batch)
    with attach(tiny_model(), METHOD) as session:
        session.prefill(PROMPT)
        with monkeypatch.context() as patch:
            patch.setattr(values, "storage", storage)
            with pytest.raises(MemoryError):
                session.prefill(batch)
        assert session.stats.cache_bytes == 0
        with pytest.raises(ConfigError, match="Call prefill first"):
            session.generate()
        session.reset()
        assert torch.equal(session.prefill(batch), expected)


class Listener:
    def __init__(self, call):
        self.put, self.end = call, lambda: None


@contextmanager
def hooked(module, call):
    handle = module.register_forward_pre_hook(call)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("call", ["decode", "forward", "reset"])
@pytest.mark.parametrize("callback", ["stop", "streamer", "progress", "hook"])
def test_no_call_comes_from_inside_another(callback, call):
    model = tiny_model()
    with attach(model, METHOD) as session:
        inner = {
            "decode": lambda *_: session.decode(NEXT),
            "forward": lambda *_: model(NEXT),
            "reset": lambda *_: session.reset(),
        }[call]
        outer = {
            "stop": lambda: session.generate(PROMPT, 4, stop=inner),
            "streamer": lambda: session.generate(PROMPT, 4, streamer=Listener(inner)),
            "progress": lambda: session.prefill(PROMPT, progress=inner),
            "hook": lambda: session.prefill(PROMPT),
        }[callback]
        session.prefill(PROMPT)
        around = hooked(model.model.layers[1], inner) if callback == "hook" else nullcontext()
        with around, pytest.raises(ConfigError, match="from inside another one"):
            outer()
        found = session.generate(PROMPT, 4)
    with attach(model, METHOD) as session:
        assert torch.equal(session.generate(PROMPT, 4), found)


def test_a_stop_rule_is_shown_a_copy():
    with attach(tiny_model(), METHOD) as session:
        expected = session.generate(PROMPT, 5)
        assert torch.equal(session.generate(PROMPT, 5, stop=lambda new: new.append(3)), expected)


@pytest.mark.parametrize("at", ["", "model"])  # both before the decoder knows whose forward it is
@pytest.mark.parametrize("held", [0, 20])
def test_a_forward_of_the_users_own_behind_one_that_never_began(at, held):
    """It is not taken for the session's, which would say which rows and tokens it carries."""
    model, ids = tiny_model(), PROMPT[:, :1]
    with attach(model, METHOD) as session:
        if held:
            session.prefill(PROMPT[:, :held])

        def fail(*_):
            handle.remove()
            raise Boom

        handle = model.get_submodule(at).register_forward_pre_hook(fail, prepend=True)
        with pytest.raises(Boom):
            session.prefill(PROMPT)
        with pytest.raises(ConfigError, match="use_cache=False was given"):
            model.model(ids, use_cache=False)
        with pytest.raises(ConfigError, match="labels"):
            model(ids, labels=ids)
        found = model.model(PROMPT).last_hidden_state
    with attach(model, METHOD):
        assert torch.equal(model.model(PROMPT).last_hidden_state, found)


@pytest.mark.parametrize("first", ["", "model"])
@pytest.mark.parametrize("second", ["", "model"])
def test_a_forward_of_the_users_own_behind_one_that_ctrl_c_ended(first, second):
    """It begins and ends as any other: hooks behind a forward do not run for Ctrl-C."""
    model, ids = tiny_model(), PROMPT[:, :1]

    def stop(*_):
        handle.remove()
        raise KeyboardInterrupt

    with attach(model, METHOD) as session:
        handle = model.model.layers[1].mlp.register_forward_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            model.get_submodule(first)(PROMPT)
        with pytest.raises(ConfigError, match="use_cache=False was given"):
            model.get_submodule(second)(ids, use_cache=False)
        session.reset()
        session.reset_stats()
        found = model.get_submodule(second)(PROMPT)[0]
        assert session.stats.prefill_tokens == PROMPT.shape[1] and torch.is_grad_enabled()
        session.prefill(PROMPT)
        assert session.stats.prefill_tokens == 2 * PROMPT.shape[1]
    with attach(model, METHOD):
        assert torch.equal(model.get_submodule(second)(PROMPT)[0], found)
