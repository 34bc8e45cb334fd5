"""Layers that leave their rotation out hand over the bits that they hand over with it."""

from __future__ import annotations

import copy
import functools
import pickle
from collections import Counter

import pytest
import torch
from accelerate import dispatch_model
from families import tiny_family
from tiny_models import random_prompt, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaAttention, apply_rotary_pos_emb

from reattention_eval import FullAttention, ReAttention, StreamingLLM, attach
from reattention_eval.attention import model_parts
from reattention_eval.attention.layer_answers import LayerAnswers
from reattention_eval.errors import ConfigError

METHODS = [FullAttention(chunk_size=16), ReAttention(4, 24, 8, 2, 3, chunk_size=16)]
ELEMENTWISE = {"aten.mul.Tensor", "aten.neg.default", "aten.cat.default", "aten.add.Tensor"}


class NoProbes:
    """The identity rotary modules alone."""

    def __init__(self, modules):
        self.forwards = []

    def unrotated(self):
        return []


class BeforeAttention(TorchDispatchMode):
    """Counts elementwise results of four dimensions on the way to a layer's attention."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.counted, self._answering = Counter(), False
        answer = LayerAnswers.__call__

        def answered(*args):
            self._answering = True
            try:
                return answer(*args)
            finally:
                self._answering = False

        monkeypatch.setattr(LayerAnswers, "__call__", answered)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if not self._answering and str(func) in ELEMENTWISE and made.ndim == 4:
            self.counted[str(func)] += 1
        return made


def logits_of(model, method, ids):
    """Prefill, decode steps, and a padded batch behind each other."""
    mask = torch.ones(2, ids.shape[1], dtype=torch.long)
    mask[1, :7] = 0
    with attach(model, method) as session:
        found = [session.prefill(ids[:, :90])]
        found += [session.decode(ids[:, t : t + 1]) for t in range(90, 93)]
        found.append(session.prefill(ids.expand(2, -1) * mask, mask))
        return torch.cat(found), len(session._hook._parts.unrotated)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "olmoe", "phi3", "gpt_neox"])
def test_same_bits(family, method, monkeypatch):
    model, ids = tiny_family(family), random_prompt(110)
    found, shortened = logits_of(model, method, ids)
    assert shortened == model.config.num_hidden_layers
    monkeypatch.setattr(model_parts, "Probes", NoProbes)
    expected, shortened = logits_of(model, method, ids)
    assert shortened == 0
    assert torch.equal(found, expected)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_nothing_between_projection_and_attention(family, monkeypatch):
    model, ids = tiny_model(family, dtype=torch.bfloat16), random_prompt(60)
    norms = 2 if family == "qwen3" else 0  # of queries and keys: two products each
    for probes, rotations in ((model_parts.Probes, 0), (NoProbes, 2)):
        monkeypatch.setattr(model_parts, "Probes", probes)
        with (
            attach(model, METHODS[1]) as session,
            monkeypatch.context() as patches,
            BeforeAttention(patches) as before,
        ):
            session.prefill(ids[:, :16])
        layers = model.config.num_hidden_layers
        assert before.counted["aten.cat.default"] == layers * rotations
        assert before.counted["aten.neg.default"] == layers * rotations
        assert before.counted["aten.mul.Tensor"] == layers * (2 * rotations + 2 * norms)


ROTATE, FORWARD = apply_rotary_pos_emb, LlamaAttention.forward


def unit_length(query, key, cos, sin, **kwargs):
    """A rotation that also norms, so it is never idle."""
    query, key = (x / x.norm(dim=-1, keepdim=True).clamp(1e-9) for x in (query, key))
    return ROTATE(query, key, cos, sin, **kwargs)


def test_a_rotation_that_does_more_is_kept(monkeypatch):
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", unit_length)
    model, ids = tiny_model(), random_prompt(60)
    with torch.inference_mode():
        expected = model(input_ids=ids).logits[:, -1]
    with attach(model, FullAttention(chunk_size=16)) as session:
        assert session._hook._parts.unrotated == []
        near = dict(rtol=0, atol=2e-5 * float(expected.abs().max()))
        torch.testing.assert_close(session.prefill(ids), expected, **near)


def counting(function, calls):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        calls.append(type(args[0]).__name__)
        return function(*args, **kwargs)

    return wrapper


def test_a_decorated_forward_stays_decorated(monkeypatch):
    calls = []
    monkeypatch.setattr(LlamaAttention, "forward", counting(LlamaAttention.forward, calls))
    with attach(tiny_model(), "full") as session:
        assert len(session._hook._parts.unrotated) == 2
        calls.clear()
        session.prefill(random_prompt(20))
        assert calls == ["LlamaAttention"] * 2


class Opaque:
    """A decorator of which no copy can be made."""

    def __init__(self, function):
        functools.update_wrapper(self, function)

    def __call__(self, *args, **kwargs):
        return self.__wrapped__(*args, **kwargs)

    def __get__(self, module, kind=None):
        return self if module is None else functools.partial(self, module)


@pytest.mark.parametrize("where", ["class", "module"])
def test_other_forwards_are_left_alone(where, monkeypatch):
    model, ids = tiny_model(), random_prompt(20)
    with attach(model, "full") as session:
        expected = session.prefill(ids)
    if where == "class":
        monkeypatch.setattr(LlamaAttention, "forward", Opaque(LlamaAttention.forward))
        shortened = 0
    else:  # of the first layer
        attention = model.model.layers[0].self_attn
        attention.forward = functools.partial(type(attention).forward, attention)
        own, shortened = attention.forward, 1
    with attach(model, "full") as session:
        assert len(session._hook._parts.unrotated) == shortened
        assert torch.equal(session.prefill(ids), expected)
    if where == "module":
        assert model.model.layers[0].self_attn.forward is own


def counts_on_its_rotation(module, hidden_states, **kwargs):
    if apply_rotary_pos_emb is not ROTATE:
        raise RuntimeError("view size is not compatible with the tensor's size and stride")
    return FORWARD(module, hidden_states, **kwargs)


def test_a_layer_that_fails_without_its_rotation_keeps_it(monkeypatch):
    monkeypatch.setattr(LlamaAttention, "forward", counts_on_its_rotation)
    with attach(tiny_model(), "full") as session:
        assert session._hook._parts.unrotated == []


def test_with_device_hooks():
    model, ids = tiny_model(), random_prompt(60)
    expected, _ = logits_of(model, METHODS[1], ids[:, :60].repeat(1, 2))
    places = {"model.embed_tokens": "cpu", "model.layers": "cpu", "model.norm": "cpu"}
    places |= {"model.rotary_emb": "cpu", "lm_head": "cpu"}
    dispatch_model(model, places, force_hooks=True)
    before = [dict(vars(module)) for module in model.modules()]
    found, shortened = logits_of(model, METHODS[1], ids[:, :60].repeat(1, 2))
    assert shortened == 2
    assert torch.equal(found, expected)
    assert [dict(vars(module)) for module in model.modules()] == before


def test_nothing_stays_behind():
    model, ids = tiny_model(), random_prompt(40)
    with torch.inference_mode():
        expected = model(input_ids=ids).logits
    names = dict(vars(modeling_llama)), dict(vars(LlamaAttention))
    for method in (*METHODS, StreamingLLM(4, 28, chunk_size=16)):
        with attach(model, method) as session:
            session.prefill(ids)
            with pytest.raises(ConfigError, match="already has a method"):
                attach(model, "full").__enter__()
            held = [vars(module).get("forward") for module in model.modules()]
            assert sum(forward is not None for forward in held) == 2
        assert not any("forward" in vars(module) for module in model.modules())
    assert (dict(vars(modeling_llama)), dict(vars(LlamaAttention))) == names
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.inference_mode():
            assert torch.equal(again(input_ids=ids).logits, expected)
