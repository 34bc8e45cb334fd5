"""Dual chunk attention against a loop over pairs of tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from naive_distances import NaiveDistances
from test_distance_rules import close, random_tensors_against_pairs
from tiny_models import random_prompt, tiny_model

from reattention_eval import attach
from reattention_eval.errors import ConfigError
from reattention_eval.methods import DualChunkAttention, build_method

# (segment, window): three quarters, one token between, half and more, segments of one token
CASES = [(6, 8), (7, 8), (4, 11), (9, 14), (1, 4)]
RATIOS = [(2, 2), (6, 2), (4, 1), (7, 1)]


def dual_chunk(size, window):
    def distance(i, j):
        between = i // size - j // size
        if between == 0:
            place = i % size
        elif between == 1:
            place = min(size + i % size, window - 1)
        else:
            place = window - 1
        return place - j % size

    return distance


PAIRED = [(case, RATIOS[i % len(RATIOS)]) for i, case in enumerate(CASES)]
REST = [(case, ratio) for case in CASES for ratio in RATIOS if (case, ratio) not in PAIRED]


@pytest.mark.parametrize(
    ("case", "ratio"), [*PAIRED, *(pytest.param(*one, marks=pytest.mark.slow) for one in REST)],
    ids=str,
)  # fmt: skip
def test_random_tensors_against_pairs(case, ratio):
    method = DualChunkAttention(*case, chunk_size=5)
    sizes = ((9, 2), (15, 5), (31, 5), (33, 3), (37, 1))
    random_tensors_against_pairs(method, dual_chunk(*case), *ratio, sizes)


@pytest.mark.parametrize(
    ("case", "heads", "kv_heads"), [(CASES[0], 6, 2), (CASES[2], 7, 1)], ids=str
)
def test_models_against_pairs(case, heads, kv_heads):
    """The prompt in chunks of any size and two decoded tokens; all keys are counted as read."""
    model = tiny_model(heads=heads, kv_heads=kv_heads)
    prompt = random_prompt(33)
    naive = NaiveDistances(model, dual_chunk(*case))
    expected = [naive.chunk([token]) for token in [*prompt[0].tolist(), 5, 71]][32:]
    method = DualChunkAttention(*case)
    for size in (5, 33):
        with attach(model, replace(method, chunk_size=size)) as session:
            close(session.prefill(prompt)[0], expected[0])
            for token, wanted in zip((5, 71), expected[1:], strict=True):
                close(session.decode(torch.tensor([[token]]))[0], wanted)
            ends = [*range(size, 33, size), 33, 34, 35]
            stats = session.stats
            assert stats.layer_steps_selected == 2 * sum(method.selects(n) for n in ends)
            assert stats.mean_view == pytest.approx(sum(ends) / len(ends))


def test_batch_with_padding_and_another_method_between():
    model, method = tiny_model(), DualChunkAttention(6, 8, chunk_size=5)
    lengths, prompts = (28, 11, 1), random_prompt(28, rows=3)
    mask = torch.tensor([[0] * (28 - n) + [1] * n for n in lengths])

    def logits(one):
        with attach(model, one) as session:
            return session.prefill(prompts, attention_mask=mask)

    found = logits(method)
    for row, n in enumerate(lengths):
        naive = NaiveDistances(model, dual_chunk(6, 8))
        for token in prompts[row, 28 - n :].tolist():
            expected = naive.chunk([token])
        close(found[row], expected)
    assert not torch.equal(logits(DualChunkAttention(4, 11, chunk_size=5)), found)
    assert torch.equal(logits(method), found)


@pytest.mark.parametrize(("case", "n"), [((40, 50), 39), ((30, 40), 40), ((20, 60), 40)], ids=str)
def test_full_attention_up_to_the_window(case, n):
    """Within a segment, and as far as the next one counts true distances."""
    model, prompt = tiny_model(), random_prompt(n)
    method = DualChunkAttention(*case, chunk_size=7)
    assert not method.selects(n)
    with attach(model, method) as session:
        close(session.prefill(prompt)[0], model(prompt).logits[0, -1])
    distance = dual_chunk(*case)
    pairs = [(i, j) for i in range(method.whole_until + 1) for j in range(i + 1)]
    assert {i for i, j in pairs if distance(i, j) != i - j} == {method.whole_until}


def test_sizes_follow_from_the_trained_window():
    """The paper's: the window, and three quarters of it; what is given stays."""
    bare = DualChunkAttention()
    assert bare.on(32768) == DualChunkAttention(24576, 32768)
    assert DualChunkAttention(window_size=8192) == DualChunkAttention(6144, 8192)
    assert DualChunkAttention(5, 8).on(64) == DualChunkAttention(5, 8)
    assert DualChunkAttention(segment_size=5).on(64) == DualChunkAttention(5, 64)
    model, prompt = tiny_model(), random_prompt(40)
    window = model.config.max_position_embeddings
    with attach(model, "dca") as session:
        assert session.method == bare.on(window) and session.method.window_size == window
        assert session.prefill(prompt).shape[0] == 1


def test_refusals():
    assert DualChunkAttention().reach(8192) is None
    DualChunkAttention().check(4096)
    DualChunkAttention(6144, 8192).check(8192)
    with pytest.raises(ConfigError, match=r"window_size 8192 is larger than .* 4096; lower it"):
        DualChunkAttention(6144, 8192).check(4096)
    with pytest.raises(ConfigError, match="segment_size 6144 must be below window_size 4096"):
        DualChunkAttention(6144).check(4096)
    with pytest.raises(ConfigError, match="window_size follows from the model"):
        DualChunkAttention().selects(5)
    for settings, message in [
        (dict(segment_size=0), "segment_size must be at least 1, found 0"),
        (dict(window_size=True), "window_size must be a whole number"),
        (
            dict(segment_size=8192, window_size=8192),
            "8192 must be below window_size 8192.*lower segment_size",
        ),
        (dict(segment_size=6144.0), "segment_size must be a whole number"),
        (dict(chunks=3), "dca has no setting chunks; there are: chunk_size, segment_size"),
    ]:
        with pytest.raises(ConfigError, match=message):
            build_method(dict(type="dca", **settings))
