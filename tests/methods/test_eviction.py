"""Eviction through kvpress: kvpress's own bits, the papers' rules as loops, nothing left behind."""

from __future__ import annotations

import random

import naive_eviction
import pytest
import torch
from tiny_models import random_prompt, tiny_model
from tiny_tokenizers import tiny_tokenizer
from transformers import DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from reattention_eval import attach
from reattention_eval.errors import ConfigError
from reattention_eval.methods import build_method
from reattention_eval.methods.kvpress_library import library
from reattention_eval.methods.prompt_compression import compression_ratio

FUNCTIONS = dict(ALL_ATTENTION_FUNCTIONS)  # before kvpress is imported
# N of a document, M of a question behind it; half of the document is kept
N, M, KEEP = 200, 20, 100
NAMED = {
    "snapkv": "SnapKVPress",
    "pyramidkv": "PyramidKVPress",
    "tova": "TOVAPress",
    "expected_attention": "ExpectedAttentionPress",
    "keydiff": "KeyDiffPress",
    "h2o": "ObservedAttentionPress",
}
SHAPES = dict(snapkv=dict(window_size=16), pyramidkv=dict(window_size=16, beta=4))
ADAKV = dict(type="kvpress", press="AdaKVPress", press_settings=dict(press="KnormPress"))


def model_of(family="llama", **settings):
    """In float32, as kvpress is used, with one query head a KV head where keys are masked."""
    model = tiny_model(family, **{"dtype": torch.float32, "window": 1024, "layers": 3, **settings})
    model.set_attn_implementation("sdpa")
    return model


def method_of(name, keep, **settings):
    return dict(type=name, budget_tokens=keep, **SHAPES.get(name, {}), **settings)


def press_of(name):
    return getattr(library(), NAMED[name])(compression_ratio=0.5, **SHAPES.get(name, {}))


@torch.no_grad()
def kvpress_own(model, press, prompt, question, steps, *, at_once):
    """As kvpress's pipeline does: logits behind the prompt and each greedy token, and the cache."""
    cache, logits, at = DynamicCache(), [], prompt.shape[1]
    with press(model):
        logits.append(model(prompt, past_key_values=cache, logits_to_keep=1).logits[:, -1])
    parts = [question] if at_once else question.split(1, 1)
    for part in [*parts, *[None] * steps] if question.numel() else [None] * steps:
        part = logits[-1].argmax(-1)[None] if part is None else part
        positions = torch.arange(at, at + part.shape[1])[None]
        out = model(part, past_key_values=cache, position_ids=positions, logits_to_keep=1)
        at += part.shape[1]
        logits.append(out.logits[:, -1])
    return logits, cache


def ours(session, prompt, steps, document=None):
    logits = [session.prefill(prompt, document_tokens=document)]
    for _ in range(steps):
        logits.append(session.decode(logits[-1].argmax(-1)[None]))
    return logits


def same_caches(one, other):
    pairs = zip(one.layers, other.layers, strict=True)
    return all(torch.equal(a.keys, b.keys) and torch.equal(a.values, b.values) for a, b in pairs)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("name", NAMED)
def test_with_the_question_seen_it_is_kvpress(name, family):
    model, prompt = model_of(family, heads=6, kv_heads=2), random_prompt(N)
    model.set_attn_implementation("eager" if name == "h2o" else "sdpa")
    none = prompt[:, :0]
    expected, cache = kvpress_own(model, press_of(name), prompt, none, 5, at_once=True)
    with attach(model, method_of(name, KEEP)) as session:
        for own, theirs in zip(ours(session, prompt, 5), expected, strict=True):
            assert torch.equal(own, theirs)
        assert same_caches(session._cache, cache)
        session.prefill(prompt)
        stats = session.stats
        assert stats.keys_kept == KEEP
        assert stats.cache_bytes == 2 * 3 * 2 * KEEP * 16 * 4
        assert len(set(session._kept())) == (2 + 1 if name == "pyramidkv" else 1)


@pytest.mark.parametrize("name", NAMED)
def test_with_the_question_unseen_it_is_kvpress(name):
    model, prompt = model_of(), random_prompt(N + M)
    model.set_attn_implementation("eager" if name == "h2o" else "sdpa")
    document, question = prompt.split([N, M], 1)
    # where layers hold unequally many, kvpress reads the question under the first layer's mask
    at_once = name != "pyramidkv"
    expected, cache = kvpress_own(model, press_of(name), document, question, 4, at_once=at_once)
    expected = expected[-5:]
    with attach(model, method_of(name, KEEP + M, query_aware=False)) as session:
        for own, theirs in zip(ours(session, prompt, 4, document=N), expected, strict=True):
            assert torch.equal(own, theirs)
        assert same_caches(session._cache, cache)
        assert session.stats.keys_kept == KEEP + M + 4
        session.prefill(prompt, document_tokens=N)
        assert session.stats.keys_kept == KEEP + M


def test_tokens_of_kvpress_pipeline():
    model, prompt, tokenizer = model_of(vocab_size=600), random_prompt(N + M), tiny_tokenizer()
    document, question = prompt.split([N, M], 1)
    pipeline = library().KVPressTextGenerationPipeline(model=model, tokenizer=tokenizer)
    for name in ("snapkv", "tova", "expected_attention", "keydiff"):
        inputs = dict(context_ids=document, questions_ids=[question])
        (expected,) = pipeline._forward(inputs, max_new_tokens=8, press=press_of(name))
        with attach(model, method_of(name, KEEP + M, query_aware=False)) as session:
            session.prefill(prompt, document_tokens=N)
            tokens = session.generate(None, 8)[0]
        assert tokenizer.decode(tokens, skip_special_tokens=True) == expected


@pytest.mark.parametrize(
    ("press", "settings"),
    [
        ("KnormPress", {}),
        ("StreamingLLMPress", dict(n_sink=7)),
        ("BlockPress", dict(press="KeyDiffPress", block_size=32)),
        ("ChunkKVPress", dict(press=dict(type="SnapKVPress", window_size=16), chunk_length=10)),
        ("LagKVPress", dict(lag_size=16)),
        ("CompactorPress", {}),
        ("RandomPress", {}),
    ],
    ids=str,
)
def test_any_press(press, settings):
    model, prompt = model_of(), random_prompt(N)
    method = build_method(
        dict(type="kvpress", press=press, press_settings=settings, budget_tokens=KEEP)
    )
    assert build_method(dict(type="kvpress", **method.settings())) == method
    with attach(model, method) as session:
        first = ours(session, prompt, 3)
        assert session.stats.keys_kept == KEEP + 3
        again = ours(session, prompt, 3)  # also of presses that draw at random
        generated = session.generate(prompt, 6)
        assert torch.equal(model.generate(prompt, max_new_tokens=6)[:, N:], generated)
    assert all(map(torch.equal, first, again))
    if press == "KnormPress":
        own = library().KnormPress(compression_ratio=0.5)
        expected, _ = kvpress_own(model, own, prompt, prompt[:, :0], 3, at_once=True)
        assert all(map(torch.equal, first, expected))


@pytest.mark.parametrize("name", ["snapkv", "tova", "keydiff"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (6, 2), (7, 1)], ids=str)
def test_kept_keys_are_the_papers_rule(name, heads, kv_heads):
    n, keep = 71, 40
    model = model_of(heads=heads, kv_heads=kv_heads, dtype=torch.float64)
    prompt, told, every = random_prompt(n), {}, DynamicCache()

    def tell(module, args, kwargs):
        told[module.layer_idx] = kwargs["hidden_states"], kwargs["position_embeddings"]

    layers = [layer.self_attn for layer in model.model.layers]
    hooks = [layer.register_forward_pre_hook(tell, with_kwargs=True) for layer in layers]
    with torch.no_grad():
        model(prompt, past_key_values=every)
    for hook in hooks:
        hook.remove()
    with attach(model, method_of(name, keep)) as session:
        session.prefill(prompt)
        kept = [layer.keys[0] for layer in session._cache.layers]
    rule, settings = getattr(naive_eviction, name), {}
    if name == "snapkv":
        settings = dict(window=16)
    for index, layer in enumerate(layers):
        hidden, (cos, sin) = told[index]
        query = layer.q_proj(hidden).view(1, n, heads, 16).transpose(1, 2)
        query, _ = apply_rotary_pos_emb(query, query, cos, sin)
        keys = every.layers[index].keys[0]
        expected = rule(query[0].detach(), keys, keep, **settings)
        assert naive_eviction.positions_of(kept[index], keys) == expected


@pytest.mark.parametrize("settings", [*map(method_of, NAMED, [N] * 6), dict(ADAKV)], ids=str)
def test_a_prompt_within_the_budget_is_full_attention(settings):
    model, prompt = model_of(kv_heads=4), random_prompt(N)
    model.set_attn_implementation("eager" if settings["type"] == "h2o" else "sdpa")
    with attach(model, "native_full") as session:
        expected = ours(session, prompt, 3)
    for aware in (True, False):
        with attach(model, {**settings, "budget_tokens": N, "query_aware": aware}) as session:
            assert all(map(torch.equal, ours(session, prompt, 3), expected))
            assert session.stats.keys_kept == N + 3
            session.check_selected()


def held(model):
    """All that lies on the modules of a model."""
    return [
        (name, sorted(vars(module)), sorted(module._modules), len(module._forward_hooks))
        for name, module in model.named_modules()
    ], model.config._attn_implementation


def test_full_attention_before_and_after_is_the_same():
    model, prompt = model_of(kv_heads=4), random_prompt(N)

    def full():
        with attach(model, "native_full") as session, torch.no_grad():
            return [*ours(session, prompt, 2), model(prompt).logits]

    before, there = full(), held(model)
    for settings in (*(method_of(name, KEEP) for name in NAMED), {**ADAKV, "budget_tokens": KEEP}):
        with attach(model, settings) as session:
            assert not torch.equal(ours(session, prompt, 2)[-1], before[2])
        assert held(model) == there
        assert all(map(torch.equal, full(), before))
        assert {name: ALL_ATTENTION_FUNCTIONS[name] for name in FUNCTIONS} == FUNCTIONS
    with (
        pytest.raises(ConfigError, match=r"SnapKVPress cannot do this .AssertionError: Query leng"),
        attach(model, dict(type="kvpress", press="SnapKVPress", budget_tokens=20)) as session,
    ):
        session.prefill(prompt[:, :40])
    assert held(model) == there
    assert all(map(torch.equal, full(), before))


def test_masked_keys_are_no_attended_keys():
    model, prompt = model_of(kv_heads=4), random_prompt(N)
    own = library().AdaKVPress(library().KnormPress(compression_ratio=0.5))
    functions = dict(ALL_ATTENTION_FUNCTIONS)
    library().attention_patch.patch_attention_functions()  # as importing it alone would
    try:
        expected, _ = kvpress_own(model, own, prompt, prompt[:, :0], 4, at_once=True)
    finally:
        for name in functions:
            del ALL_ATTENTION_FUNCTIONS[name]
    other = model_of(kv_heads=4, seed=3)
    with attach(model, {**ADAKV, "budget_tokens": KEEP}) as session:
        assert all(map(torch.equal, ours(session, prompt, 4), expected))
        stats = session.stats
        assert stats.keys_kept == N + 4  # it drops nothing: its memory is full attention's
        assert stats.mean_view == (N + sum(KEEP + i for i in (1, 2, 3, 4))) / 5
        assert stats.layer_steps_selected == 3 * 4
        with torch.no_grad():
            other(prompt)
        assert "masked_key_indices" not in vars(other.model.layers[0].self_attn)
        short = session.prefill(prompt[:, :50])  # the masks of the last prompt are not this one's
        assert session.stats.keys_kept == 50
    with attach(model, "native_full") as session:
        assert torch.equal(session.prefill(prompt[:, :50]), short)


def test_the_ratio_keeps_exactly_the_budget():
    numbers = random.Random(0)
    kept = library().utils.compute_n_kept
    for _ in range(20_000):
        tokens = numbers.choice([300, 40_000, 2**20]) + numbers.randrange(1000)
        keep = numbers.randrange(1, tokens)
        ratio = compression_ratio(keep, tokens)
        assert kept(tokens, ratio) == keep == round(tokens * (1 - ratio))
    assert compression_ratio(9, 9) == compression_ratio(10, 9) == 0


@pytest.mark.parametrize(("budget", "beta"), [(100, 20), (100, 3), (237, 5), (299, 9)])
def test_a_pyramid_keeps_the_budget_in_the_mean(budget, beta):
    model, prompt = model_of(layers=8), random_prompt(300)
    settings = dict(type="pyramidkv", budget_tokens=budget, window_size=8, beta=beta)
    with attach(model, settings) as session:
        session.prefill(prompt)
        kept = session._kept()
        assert abs(session.stats.keys_kept - budget) <= 0.5
        assert kept == sorted(kept, reverse=True)
