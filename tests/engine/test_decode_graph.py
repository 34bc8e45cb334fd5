"""Decode steps that repeat one piece of work give what ordinary steps give."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from repeats import repeat_without_gpu
from tiny_models import longrope, random_prompt, tiny_model

from reattention_eval import FullAttention, ReAttention, StreamingLLM, attach
from reattention_eval.attention import repeated_steps
from reattention_eval.attention.fused_view_attention import FusedViewAttention
from reattention_eval.cache import RowCache
from reattention_eval.cache.values import DeviceStore
from reattention_eval.engine import decode_graph
from reattention_eval.engine.decode_graph import RepeatedDecode
from reattention_eval.methods.repeats import ANY_LENGTH

METHOD = ReAttention(4, 64, 8, 3, 9, chunk_size=64)
METHODS = [METHOD, StreamingLLM(4, 64, chunk_size=32), FullAttention(chunk_size=64)]
LONGROPE = longrope(512)


@pytest.fixture
def repeated(monkeypatch):
    return repeat_without_gpu(monkeypatch)


def run(method, prompt, steps=40, **settings):
    """Logits after a prefill and after every step; also after going back, and the counters."""
    with attach(tiny_model(layers=2, dtype=torch.float64, **settings), method) as session:
        logits = [session.prefill(prompt, max_new_tokens=64)]
        nll = session.answer_nll(list(range(1, 12)))
        for token in range(steps):
            logits.append(session.decode(torch.tensor([[token % 50]])))
        again = session.generate(prompt[:, :300], max_new_tokens=9)
        stats = session.stats.as_dict()
        timed = ("second", "bytes")
        counters = {k: v for k, v in stats.items() if not any(word in k for word in timed)}
        return torch.cat(logits), nll, again, counters, session.lengths


@pytest.mark.parametrize("tokens", [400, 50, 120])  # beyond the scope, within it, across its end
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_as_ordinary_steps(repeated, method, tokens):
    prompt = random_prompt(tokens)
    got = run(method, prompt)
    assert len(set(repeated)) >= 3  # several rooms: 40 steps cross their ends
    if method is METHOD and tokens == 120:
        assert min(repeated) < METHOD.budget < max(repeated)
        assert METHOD.budget in repeated  # none serves steps on both sides
    repeated.clear()
    # a selection's size is counted on a GPU only
    compare(got, launched(method, prompt), views=method is not METHOD)
    assert not repeated


@pytest.mark.parametrize("tokens", [300, 490, 560])
@pytest.mark.parametrize(
    "scaling", [LONGROPE, {"rope_type": "dynamic", "factor": 2.0}], ids=["longrope", "dynamic"]
)
def test_frequencies_that_follow_the_length(repeated, scaling, tokens):
    """Before the length at which they change, across it, and behind it."""
    prompt, method = random_prompt(tokens), METHODS[2]
    got = run(method, prompt, rope_scaling=scaling, window=512)
    behind = any(room > 512 for room in repeated)
    assert behind == (scaling is LONGROPE and tokens > 490 - 40)  # dynamic: new ones every step
    compare(got, launched(method, prompt, rope_scaling=scaling, window=512))


def test_a_shorter_prompt_finds_its_own_frequencies(repeated):
    """Both prompts are decoded in the same room, with factors that the prompt's length decides."""
    model = tiny_model(layers=2, dtype=torch.float64, rope_scaling=LONGROPE, window=512)
    logits = []
    with attach(model, METHODS[2]) as session:
        for tokens, room in ((520, 80), (505, 80), (520, 80)):
            session.prefill(random_prompt(tokens), max_new_tokens=room)
            logits.append([session.decode(torch.tensor([[t]])) for t in range(6)][-1])
    assert repeated
    assert torch.equal(logits[0], logits[2])
    repeated.clear()
    with pytest.MonkeyPatch.context() as patch, attach(model, METHODS[2]) as session:
        patch.setattr(FullAttention, "repeats_until", lambda self, length: 0)
        session.prefill(random_prompt(505))
        want = [session.decode(torch.tensor([[t]])) for t in range(6)][-1]
    torch.testing.assert_close(logits[1], want, rtol=0, atol=1e-12)


def launched(method, prompt, **settings):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(method), "repeats_until", lambda self, length: 0)
        return run(method, prompt, **settings)


def compare(got, want, views=True):
    if not views:
        for counters in (got[3], want[3]):
            del counters["mean_view"], counters["decode_view"]
    torch.testing.assert_close(got[0], want[0], rtol=0, atol=1e-12)
    assert got[1] == pytest.approx(want[1], abs=1e-12)
    assert torch.equal(got[2], want[2])
    assert got[3:] == want[3:]


def test_what_is_not_the_same_work_is_not_repeated(repeated):
    with attach(tiny_model(layers=2), METHOD) as session:
        session.generate(random_prompt(400).expand(2, -1), max_new_tokens=9)
    run(replace(METHOD, score="qkv_l2"), random_prompt(400))
    assert not repeated


def test_where_selection_begins_with_the_local_part(repeated):
    early = replace(METHOD, select_from="local")
    assert [early.repeats_until(n) for n in (68, 69)] == [68, ANY_LENGTH]
    prompt = random_prompt(50)
    compare(run(early, prompt), launched(early, prompt), views=False)
    assert 68 in repeated


def test_a_prompt_for_which_room_was_made_in_one_layer_only(repeated, monkeypatch):
    """A repeat is of the storage that every layer has now, and within the least of it."""
    prompt, make = random_prompt(100), DeviceStore.make

    def fail(self, rows, capacity, like):
        if self is session._hook.layers[1]._values:
            raise torch.OutOfMemoryError("no room for the second layer")
        make(self, rows, capacity, like)

    with attach(tiny_model(layers=2, dtype=torch.float64), METHOD) as session:
        with monkeypatch.context() as patch:
            patch.setattr(DeviceStore, "make", fail)
            with pytest.raises(torch.OutOfMemoryError):
                session.prefill(random_prompt(400), max_new_tokens=64)
        logits = []
        for room in (10, 200):  # the second time the second layer alone makes more room
            session.prefill(prompt, max_new_tokens=room)
            logits.append([session.decode(torch.tensor([[t % 50]])) for t in range(60)])
        assert repeated
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReAttention, "repeats_until", lambda self, length: 0)
        with attach(tiny_model(layers=2, dtype=torch.float64), METHOD) as session:
            session.prefill(prompt)
            want = [session.decode(torch.tensor([[t % 50]])) for t in range(60)]
    for found in logits:
        torch.testing.assert_close(found, want, rtol=0, atol=1e-12)


def test_what_waits_for_the_device_is_not_repeated(monkeypatch, repeated):
    monkeypatch.setattr(repeated_steps, "FLASH_DTYPES", (torch.bfloat16,))
    run(METHOD, random_prompt(400), steps=10)
    assert not repeated


class PackedLinear(torch.nn.Module):
    """Weights as bitsandbytes and others hold them: integers, with a scale beside."""

    def __init__(self, linear):
        super().__init__()
        scale = linear.weight.detach().abs().amax() / 127
        packed = (linear.weight.detach() / scale).round().to(torch.int8)
        self.weight = torch.nn.Parameter(packed, requires_grad=False)
        self.register_buffer("scale", scale)

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight.to(x.dtype) * self.scale)


def test_packed_weights_are_repeated_too(repeated):
    model = tiny_model(layers=2)
    for layer in model.model.layers:
        layer.mlp.down_proj = PackedLinear(layer.mlp.down_proj)
        layer.self_attn.q_proj = PackedLinear(layer.self_attn.q_proj)

    def steps():
        with attach(model, METHOD) as session:
            session.prefill(random_prompt(400), max_new_tokens=20)
            return torch.cat([session.decode(torch.tensor([[t]])) for t in range(9)])

    got = steps()
    assert repeated
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReAttention, "repeats_until", lambda self, length: 0)
        torch.testing.assert_close(got, steps(), rtol=0, atol=1e-12)


def test_a_capture_that_fails_is_said_and_steps_go_on(monkeypatch, repeated):
    monkeypatch.undo()
    monkeypatch.setattr(repeated_steps, "FLASH_DTYPES", (torch.float64,))
    original = RepeatedDecode.__init__

    def able(self, *args):
        original(self, *args)
        self._able = True

    def broken(self, step, forward):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(RepeatedDecode, "__init__", able)
    monkeypatch.setattr(RepeatedDecode, "_capture", broken)
    with attach(tiny_model(layers=2), METHOD) as session:
        session.prefill(random_prompt(400), max_new_tokens=32)
        for _ in range(decode_graph.STEPS_BEFORE_CAPTURE):
            session.decode(torch.tensor([[5]]))
        with pytest.warns(RuntimeWarning, match="could not be made"):
            session.decode(torch.tensor([[5]]))
        for _ in range(4):
            session.decode(torch.tensor([[5]]))
        assert session.lengths == [408]
        session.check_selected()


@pytest.mark.parametrize("method", METHODS[:2], ids=lambda method: method.name)
def test_nothing_waits_for_the_device_before_the_kernels_attend(repeated, monkeypatch, method):
    """A length read on the host would spoil a capture; what stands in for the kernels here may."""
    may_wait = []
    attend = FusedViewAttention.attend

    def attend_then_stand_in(self, *args, **kwargs):
        may_wait.append(True)
        return attend(self, *args, **kwargs)

    def view(self, row, query):
        may_wait.clear()
        return original(self, row, query)

    def length(row):
        assert row.device_length is None or may_wait
        return row.capacity if row.device_length is None else int(row.device_length)

    original = type(method).view
    monkeypatch.setattr(type(method), "view", view)
    monkeypatch.setattr(FusedViewAttention, "attend", attend_then_stand_in)
    monkeypatch.setattr(RowCache, "length", property(length))
    run(method, random_prompt(400), steps=8)
    assert repeated


def test_a_step_that_is_watched_is_no_repeat(repeated, monkeypatch):
    """A captured step runs no code of ours that could note its view."""
    steps = []
    count = repeated_steps.RepeatedSteps.count
    noted = lambda self, *args: steps.append(count(self, *args))  # noqa: E731
    monkeypatch.setattr(repeated_steps.RepeatedSteps, "count", noted)
    with attach(tiny_model(layers=2), METHOD) as session:
        session.prefill(random_prompt(400), max_new_tokens=64)
        for token in range(8):
            session.decode(torch.tensor([[token]]))
        assert len(steps) == 5
        with session.watching_views() as views:
            session.decode(torch.tensor([[9]]))
        assert len(steps) == 5
        assert all(view[-2:] == [409 - 64, 409] for view in views())
        session.decode(torch.tensor([[9]]))
        assert len(steps) == 6
