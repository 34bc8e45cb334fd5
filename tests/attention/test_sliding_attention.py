"""Models with sliding-window layers: those keep their window, the others take the method's view."""

from __future__ import annotations

import math

import pytest
import torch
from naive_reattention import Naive
from tiny_models import VOCABULARY, longrope, random_prompt, tiny_model
from transformers import Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

from reattention_eval import FullAttention, ReAttention, StreamingLLM, attach
from reattention_eval.attention.masks import UnknownMask, seen_window
from reattention_eval.attention.recording import Call
from reattention_eval.errors import ConfigError

WINDOW = 10
METHODS = [FullAttention(chunk_size=7), ReAttention(4, 32, 4, 2, 9, chunk_size=7)]  # scope 72
BEYOND = dict(global_size=3, local_size=12, span_size=4, top_k=2, max_spans=3, chunk_size=5)


def qwen2():
    """Layer 0 sees everything, layers 1 and 2 a window."""
    return tiny_model(
        "qwen2", layers=3, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
    )


def gemma3():
    """Query scaling, normed queries and keys, and a second RoPE for sliding-window layers."""
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        hidden_size=64,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=VOCABULARY,
        max_position_embeddings=512,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        query_pre_attn_scalar=20,
        initializer_range=0.3,
        attn_implementation="eager",
    )
    return Gemma3ForCausalLM(config).double().eval()


MODELS = {"qwen2": qwen2, "gemma3": gemma3}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_equals_the_model_itself(name, method):
    model = MODELS[name]()
    prompt = random_prompt(64)
    with torch.inference_mode():
        expected = model(prompt).logits
    new = model.generate(prompt, max_new_tokens=4, do_sample=False)[:, 64:]
    near = dict(rtol=0, atol=1e-5 * float(expected.abs().max()))  # eager softmax is in float32
    with attach(model, method) as session:
        torch.testing.assert_close(session.prefill(prompt[:, :61]), expected[:, 60], **near)
        for t in (61, 62, 63):
            logits = session.decode(prompt[:, t : t + 1])
        torch.testing.assert_close(logits, expected[:, -1], **near)
        torch.testing.assert_close(model(prompt).logits, expected, **near)
        assert torch.equal(session.generate(prompt, 4), new)
        assert torch.equal(model.generate(prompt, max_new_tokens=4, do_sample=False)[:, 64:], new)
    assert torch.equal(model(prompt).logits, expected)


class NaiveWindowed(Naive):
    """Windowed layers as loops: every query, its last WINDOW keys, at their own positions."""

    def attention(self, index, module, x):
        config = self.model.config
        if config.layer_types[index] == "full_attention":
            return super().attention(index, module, x)
        heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, 16
        query = module.q_proj(x).view(len(x), heads, dim)
        keys = self.keys.setdefault(index, [])
        values = self.values.setdefault(index, [])
        start = len(keys)
        for t, key in enumerate(module.k_proj(x).view(len(x), kv_heads, dim)):
            keys.append([self.rope(head, start + t) for head in key])
        values.extend(module.v_proj(x).view(len(x), kv_heads, dim))
        out = torch.zeros(len(x), heads, dim, dtype=x.dtype)
        for t in range(len(x)):
            seen = range(max(0, start + t - WINDOW + 1), start + t + 1)
            for h in range(heads):
                q, kv = self.rope(query[t, h], start + t), h // (heads // kv_heads)
                scores = [float(q @ keys[j][kv]) / math.sqrt(dim) for j in seen]
                weights = torch.tensor(scores, dtype=torch.float64).softmax(0)
                for weight, j in zip(weights, seen, strict=True):
                    out[t, h] += weight * values[j][kv]
        return module.o_proj(out.flatten(1))


def test_beyond_the_scope():
    model = qwen2()
    prompt = random_prompt(41)
    naive = NaiveWindowed(model, **BEYOND)
    with attach(model, ReAttention(**BEYOND)) as session:
        found = session.prefill(prompt)[0]
        torch.testing.assert_close(found, naive.prefill(prompt[0].tolist()), rtol=0, atol=1e-6)
        found = session.decode(torch.tensor([[5]]))[0]
        torch.testing.assert_close(found, naive.chunk([5]), rtol=0, atol=1e-6)
        # one layer of three is counted: 9 chunks and a token, of which those beyond 27 selected
        assert session.stats.layer_steps == 10
        assert session.stats.layer_steps_selected == 5


@pytest.mark.parametrize("name", MODELS)
def test_rows_and_prefixes(name):
    model = MODELS[name]()
    prompt = random_prompt(50, rows=2)
    mask = torch.tensor([[1] * 50, [0] * 13 + [1] * 37])
    method = StreamingLLM(4, 20, chunk_size=7)
    with attach(model, method) as session:
        both = session.generate(prompt, 4, attention_mask=mask)
        for row, first in ((0, 0), (1, 13)):
            assert torch.equal(session.generate(prompt[row : row + 1, first:], 4)[0], both[row])
        again = session.generate(prompt[1:, 13:], 4)
        assert session.stats.reused_tokens == 35
        assert torch.equal(again[0], both[1])


def test_soft_capped_scores_are_refused():
    config = Gemma2Config(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, vocab_size=VOCABULARY,
    )  # fmt: skip
    model = Gemma2ForCausalLM(config)
    with pytest.raises(ConfigError, match="layer 0 attends with soft-capped scores"):
        attach(model, "full").__enter__()


@pytest.mark.parametrize(
    ("rule", "window"),
    [
        (lambda b, h, q, k: k <= q, None),
        (lambda b, h, q, k: (k <= q) & (k > q - 5), 5),
        (lambda b, h, q, k: (k <= q) & (k > q - 300_000), 300_000),
        (lambda b, h, q, k: (k <= q) & (k // 64 == q // 64), "chunks of fixed places"),
        (lambda b, h, q, k: k >= 0, "other keys"),
        (lambda b, h, q, k: (k <= q) & ((k > q - 9) | (k < 4)), "other keys"),
    ],
    ids=["causal", "window", "wide", "chunked", "both-directions", "sinks-and-window"],
)
def test_the_rule_of_a_mask(rule, window):
    """Asked far beyond the tokens that the mask was made for."""
    at = torch.arange(16)
    mask = torch.zeros(1, 1, 16, 16)
    mask.masked_fill_(~rule(0, 0, at[:, None], at[None]), torch.finfo(mask.dtype).min)
    x = torch.zeros(1, 1, 16, 8)
    call = Call(torch.nn.Identity(), x, x, x, None, mask, rule, False, {}, False)
    if isinstance(window, str):
        with pytest.raises(UnknownMask, match=window):
            seen_window(call)
    else:
        assert seen_window(call) == window


def test_a_bias_in_the_mask():
    x = torch.zeros(1, 1, 4, 8)
    mask = torch.full((1, 1, 4, 4), torch.finfo(x.dtype).min).triu(1) + 0.5
    call = Call(torch.nn.Identity(), x, x, x, None, mask, None, False, {}, False)
    with pytest.raises(UnknownMask, match="adds values of its own"):
        seen_window(call)


def test_learned_sinks_are_refused():
    from families import tiny_family

    with pytest.raises(ConfigError, match="layer 0 attends with learned attention sinks"):
        attach(tiny_family("gpt_oss"), "full").__enter__()


@pytest.mark.parametrize(
    "scaling", [longrope(60), {"rope_type": "dynamic", "factor": 2.0}], ids=["longrope", "dynamic"]
)
def test_a_prefix_is_read_again_where_sliding_layers_had_another_rope(scaling):
    """They are at their own positions, under the frequencies of the whole prompt's length."""
    prompt = random_prompt(84)
    model = tiny_model(
        "qwen2", layers=3, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1,
        window=60, rope_scaling=scaling,
    )  # fmt: skip
    with attach(model, ReAttention(**BEYOND)) as session:
        short, longer = session.prefill(prompt[:, :50]), session.prefill(prompt[:, :80])
        session.prefill(prompt)
        assert torch.equal(session.prefill(prompt[:, :50], reuse_prefix=True), short)
        assert session.stats.reused_tokens == 0
        assert torch.equal(session.prefill(prompt[:, :50], reuse_prefix=True), short)
        assert session.stats.reused_tokens == 45
        session.prefill(prompt)
        assert torch.equal(session.prefill(prompt[:, :80], reuse_prefix=True), longer)
