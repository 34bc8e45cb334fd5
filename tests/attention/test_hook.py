"""On and off: the model is as it was, refusals say why, and silence is an error."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_models import random_prompt, tiny_model
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from reattention_eval import FullAttention, ReAttention, attach
from reattention_eval.context_length import context_length
from reattention_eval.errors import ConfigError, SelectionError

SMALL = dict(global_size=2, local_size=8, span_size=4, max_spans=2, top_k=2, chunk_size=8)


def state_of(model):
    modules = [(name, id(module), type(module)) for name, module in model.named_modules()]
    configs = [id(m.__dict__["config"]) for m in model.modules() if "config" in m.__dict__]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return modules, configs, hooks, tensors, model.config.to_dict(), vars(model.model).keys()


def assert_same(before, after):
    assert before[:3] == after[:3]
    assert before[4:] == after[4:]
    assert before[3].keys() == after[3].keys()
    assert all(torch.equal(before[3][name], after[3][name]) for name in before[3])


@pytest.mark.parametrize("fails", [False, True])
def test_detached_bit_for_bit(fails):
    model = tiny_model()
    prompt = random_prompt(40)
    before = state_of(model)
    logits = model(prompt).logits
    generated = model.generate(prompt, max_new_tokens=5, do_sample=False)
    with pytest.raises(KeyError) if fails else attach(model, ReAttention(**SMALL)) as session:
        if fails:
            with attach(model, ReAttention(**SMALL)) as session:
                session.prefill(prompt)
                raise KeyError
        session.prefill(prompt)
    assert_same(before, state_of(model))
    assert torch.equal(model(prompt).logits, logits)
    assert torch.equal(model.generate(prompt, max_new_tokens=5, do_sample=False), generated)


def test_a_model_that_shares_the_configuration_is_untouched():
    model = tiny_model()
    other = LlamaForCausalLM(model.config).double().eval()
    assert other.config is model.config
    prompt = random_prompt(40)
    expected = other(prompt).logits
    with attach(model, ReAttention(**SMALL)) as session:
        session.prefill(prompt)
        assert torch.equal(other(prompt).logits, expected)


def test_two_models_at_once():
    prompt = random_prompt(40)
    models = [tiny_model(seed=1), tiny_model("qwen2", seed=2)]
    alone = []
    for model in models:
        with attach(model, ReAttention(**SMALL)) as session:
            alone.append(session.prefill(prompt))
    with attach(models[0], ReAttention(**SMALL)) as a, attach(models[1], ReAttention(**SMALL)) as b:
        assert torch.equal(a.prefill(prompt), alone[0])
        assert torch.equal(b.prefill(prompt), alone[1])


def test_attached_twice():
    model = tiny_model()
    with (
        attach(model, FullAttention()),
        pytest.raises(ConfigError, match="already has a method"),
        attach(model, FullAttention()),
    ):
        pass


def test_no_rope():
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=50))
    with pytest.raises(ConfigError, match="no rotary position embedding"), attach(model, "full"):
        pass


def test_sliding_window_layers():
    model = tiny_model("mistral", sliding_window=16)
    with pytest.raises(ConfigError, match="every layer of this mistral model attends"):
        attach(model, "full").__enter__()


def test_scope_beyond_the_window():
    model = tiny_model(window=64)
    method = dict(type="reattention", **{**SMALL, "local_size": 80})
    with pytest.raises(ConfigError, match=r"scope of 90 tokens .* window of 64; lower"):
        attach(model, method).__enter__()
    with attach(model, {**method, "allow_beyond_window": True}) as session:
        session.prefill(random_prompt(100))


def test_selecting_run_that_does_not_select(monkeypatch):
    """The commonest silent fault of this field: the hook is there and full attention ran."""
    model = tiny_model()
    monkeypatch.setattr(ReAttention, "view", lambda self, row, query: None)
    error = pytest.raises(SelectionError, match="had to select keys and 0 did")
    with error, attach(model, ReAttention(**SMALL)) as session:
        session.prefill(random_prompt(40))


def test_layers_that_bypass_the_registry(monkeypatch):
    from transformers.models.llama import modeling_llama

    model = tiny_model()
    forward = modeling_llama.LlamaAttention.forward

    def eager_again(self, *args, **kwargs):
        kept = self.config
        self.config = copy.deepcopy(kept)
        self.config._attn_implementation = "eager"
        try:
            return forward(self, *args, **kwargs)
        finally:
            self.config = kept

    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", eager_again)
    with pytest.raises(ConfigError, match="0 of its 2 layers attend through"):
        attach(model, FullAttention()).__enter__()


def test_rotary_that_is_not_the_models(monkeypatch):
    """A hook whose RoPE went wrong is caught before the first prompt."""
    from reattention_eval.attention.rope import ViewRope

    model = tiny_model()
    monkeypatch.setattr(ViewRope, "rotate_view", lambda self, query, key, length: (query, key))
    with pytest.raises(ConfigError, match="layer 0 attends with is not RoPE of its queries"):
        attach(model, ReAttention(**SMALL)).__enter__()


@pytest.mark.parametrize(
    ("rope", "window"),
    [
        (None, 512),
        ({"rope_type": "linear", "factor": 4.0}, 512),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}, 2048),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
    ],
    ids=["default", "linear", "yarn-original", "yarn-product"],
)
def test_context_length(rope, window):
    settings = {"rope_scaling": rope} if rope else {}
    config = tiny_model(**settings).config
    assert context_length(config) == context_length(config.to_dict()) == window
