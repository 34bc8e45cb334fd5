"""SelfExtend and LM-Infinite against loops over pairs of tokens: each pair has its distance."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from naive_distances import NaiveDistances, attend_pairs, lm_infinite, self_extend
from tiny_models import random_prompt, tiny_model
from torch import nn

from reattention_eval import attach
from reattention_eval.attention.attend_parts import BandMask
from reattention_eval.attention.banded_view import Band, BandedView, attend_banded
from reattention_eval.attention.rope import ViewRope, rotate_half_split
from reattention_eval.cache import RowCache
from reattention_eval.errors import ConfigError
from reattention_eval.methods import InfLLM, LMInfinite, SelfExtend

# (group, window): in step, out of step, group above window, window of one, group of one
EXTENDED = [(4, 8), (3, 7), (9, 4), (5, 1), (1, 6)]
# (first, window, limit): the paper's limit, some first tokens between window and limit, none,
# more first tokens than the limit, far apart
LIMITED = [(3, 8, 8), (4, 6, 9), (0, 5, 5), (12, 4, 5), (2, 7, 30)]
CASES = [(SelfExtend(g, w, chunk_size=5), self_extend(g, w)) for g, w in EXTENDED]
CASES += [(LMInfinite(f, w, m, chunk_size=5), lm_infinite(f, w, m)) for f, w, m in LIMITED]
MODELS = [CASES[0], CASES[1], CASES[5], CASES[6]]
RATIOS = [(2, 2), (6, 2), (7, 1)]
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0}


def named(x):
    return "-".join(str(v) for v in x.settings().values()) if hasattr(x, "settings") else ""


def close(found, expected):
    # a model's RoPE angles are in float32: the same distance at other places turns a little
    # differently
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-5)


class ExactRotary(nn.Module):
    """Angles in float64, so that a place more or less cannot hide in rounding."""

    def __init__(self, dim):
        super().__init__()
        frequency = 10.0 ** -(torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
        self.register_buffer("inv_freq", frequency)

    def forward(self, x, position_ids):
        angle = position_ids[..., None] * torch.cat((self.inv_freq, self.inv_freq))
        return angle.cos(), angle.sin()

    def turn(self, x, place):
        cos, sin = self(x, torch.tensor([place]))
        low, high = x.chunk(2)
        return x * cos[0] + torch.cat((-high, low)) * sin[0]


def random_tensors_against_pairs(method, rule, heads, kv_heads, sizes):
    """Views of rows of n tokens, asked for by their last t, in float64; sizes: (n, t)."""
    dim, rotary = 8, ExactRotary(8)
    rope, scale = ViewRope(rotary, rotate_half_split), 0.7
    generator = torch.Generator().manual_seed(heads)
    for n, t in sizes:
        if not method.selects(n):
            continue
        query, key, value = (
            torch.randn(h, m, dim, dtype=torch.float64, generator=generator)
            for h, m in ((heads, t), (kv_heads, n), (kv_heads, n))
        )
        row = RowCache(key, value)
        view = method.view(row, query)
        view.check(method.name, row, query)
        found = attend_banded(rope, view, row, query, scale)
        for h in range(heads):
            kv = h // (heads // kv_heads)
            for s in range(t):
                expected = attend_pairs(
                    query[h, s], key[kv], value[kv], n - t + s, rule, rotary.turn, scale
                )
                torch.testing.assert_close(found[h, s], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("method", "rule"), CASES, ids=named)
@pytest.mark.parametrize(("heads", "kv_heads"), RATIOS, ids=str)
def test_random_tensors_against_pairs(method, rule, heads, kv_heads):
    sizes = ((13, 5), (31, 5), (33, 3), (37, 1))
    random_tensors_against_pairs(method, rule, heads, kv_heads, sizes)


@pytest.mark.parametrize(("method", "rule"), MODELS, ids=named)
@pytest.mark.parametrize(("heads", "kv_heads"), RATIOS[1:], ids=str)
def test_models_against_pairs(method, rule, heads, kv_heads):
    """The prompt in chunks and in one, and two decoded tokens; the counters say what was read."""
    model = tiny_model(heads=heads, kv_heads=kv_heads)
    prompt = random_prompt(33)
    naive = NaiveDistances(model, rule)
    expected = [naive.chunk([token]) for token in [*prompt[0].tolist(), 5, 71]][32:]
    for size in (5, 33, 1):
        with attach(model, replace(method, chunk_size=size)) as session:
            close(session.prefill(prompt)[0], expected[0])
            for token, wanted in zip((5, 71), expected[1:], strict=True):
                close(session.decode(torch.tensor([[token]]))[0], wanted)
            ends = [*range(size, 33, size), 33, 34, 35]
            stats = session.stats
            assert stats.layer_steps_selected == 2 * sum(method.selects(n) for n in ends)
            read = [sum(rule(n - 1, j) is not None for j in range(n)) for n in ends]
            assert stats.mean_view == pytest.approx(sum(read) / len(ends))


@pytest.mark.parametrize(
    "method",
    [SelfExtend(4, 12), LMInfinite(3, 8, 23), InfLLM(3, 16, 4, 2, top_k=2, chunk_size=16)],
    ids=lambda method: method.name,
)
def test_rope_scaled_by_length_is_as_trained_where_no_distance_is_beyond(method):
    """Whatever the chunk: places within it may lie beyond the window of 24, distances do not."""
    models = [tiny_model(window=24, rope_scaling=scaling) for scaling in (None, DYNAMIC)]
    for size in (16, 5, 1):
        found = []
        for model in models:
            with attach(model, replace(method, chunk_size=size)) as session:
                found.append(session.prefill(random_prompt(33)))
        close(*found)


@pytest.mark.parametrize(("method", "rule"), MODELS, ids=named)
def test_batch_with_padding(method, rule):
    model = tiny_model()
    lengths = (28, 11, 1)
    prompts = random_prompt(28, rows=3)
    mask = torch.tensor([[0] * (28 - n) + [1] * n for n in lengths])
    with attach(model, method) as session:
        found = session.prefill(prompts, attention_mask=mask)
        after = session.decode(torch.tensor([[5], [6], [7]]))
    for row, n in enumerate(lengths):
        naive = NaiveDistances(model, rule)
        for token in prompts[row, 28 - n :].tolist():
            expected = naive.chunk([token])
        close(found[row], expected)
        close(after[row], naive.chunk([5 + row]))


@pytest.mark.parametrize(
    "method", [SelfExtend(4, 40), SelfExtend(1, 6), LMInfinite(0, 40, 40), LMInfinite(9, 31, 50)],
    ids=named,
)  # fmt: skip
def test_full_attention_where_all_is_near(method):
    """Inside the window, or in groups of one beyond it."""
    model, prompt = tiny_model(), random_prompt(39)
    expected = model(prompt).logits[0, -1]
    with attach(model, replace(method, chunk_size=7)) as session:
        close(session.prefill(prompt)[0], expected)


def test_a_method_after_another_leaves_nothing_behind():
    model, prompt = tiny_model(), random_prompt(33)

    def logits(method):
        with attach(model, method) as session:
            return session.prefill(prompt)

    first, second = CASES[0][0], CASES[6][0]
    before = logits(first)
    assert not torch.equal(logits(second), before)
    assert torch.equal(logits(first), before)


@pytest.mark.parametrize(("group", "window"), EXTENDED, ids=str)
@pytest.mark.parametrize("trained", [17, 32])
def test_reach_is_the_last_length_counted_inside_the_window(group, window, trained):
    reach, distance = SelfExtend(group, window).reach(trained), self_extend(group, window)

    def furthest(n):
        return max(distance(i, j) for i in range(n) for j in range(i + 1))

    assert furthest(reach) < trained <= furthest(reach + 1)
    if window % group == 0:
        assert reach == (trained - window) * group + window


def test_reach_and_refusals():
    assert SelfExtend(8, 1024).reach(4096) == (4096 - 1024) * 8 + 1024
    assert LMInfinite().reach(8192) is None
    LMInfinite(allow_beyond_window=True).check(4096)
    for method, message in [
        (SelfExtend(8, 4096), "window_size 4096 must be below .* 4096.*lower window_size"),
        (LMInfinite(), "distance_limit 8192 is larger than .* 4096"),
    ]:
        with pytest.raises(ConfigError, match=message):
            method.check(4096)
    for made, settings, message in [
        (SelfExtend, dict(group_size=0), "group_size must be at least 1"),
        (SelfExtend, dict(window_size=0), "window_size must be at least 1"),
        (LMInfinite, dict(global_size=-1), "global_size must be at least 0"),
        (LMInfinite, dict(distance_limit=100), "100 must be at least window_size 8160"),
    ]:
        with pytest.raises(ConfigError, match=message):
            made(**settings)


def changed(view, number=0, **parts):
    bands = list(view.bands)
    bands[number] = bands[number]._replace(**parts)
    return replace(view, bands=tuple(bands))


def test_a_banded_view_that_is_none_is_refused():
    row = RowCache(*(torch.randn(2, 20, 8) for _ in range(2)))
    query = torch.randn(4, 5, 8)
    view = SelfExtend(3, 7, chunk_size=5).view(row, query)
    near, far = view.bands
    assert isinstance(near, Band)
    view.check("it", row, query)
    for wrong, message in [
        (BandedView((), 20, 20), "has no bands"),
        (changed(view, places=near.places.float()), "float32 .* not int64"),
        (changed(view, first=near.first[1:]), "not int64"),
        (changed(view, 1, positions=far.positions - 1), "do not ascend within 0..19"),
        (changed(view, positions=near.positions.flip(0)), "do not ascend within 0..19"),
        (changed(view, query_places=near.query_places + 9), "places outside"),
        (changed(view, stop=near.stop + 1), "a token after it"),
        (changed(view, stop=near.stop - 1), "every query see itself"),
        (changed(view, 1, stop=far.stop + 1), "a key in two bands"),
        (replace(view, keys=19), "says 19 keys, and its last query sees 20"),
        (changed(view, mask=BandMask(~near.mask.seen)), "mask is not what its first and stop"),
    ]:
        with pytest.raises(ConfigError, match=rf"it: the view of layer 0 .*{message}"):
            wrong.check("it", row, query)
