"""The PyTorch forms against the naive ones, and those against sentences of the definition."""

from __future__ import annotations

import pytest
import torch

from reattention_kernels import select_positions, topk_keys
from reattention_kernels.topk_keys import topk_keys_blockwise, topk_keys_naive
from reattention_kernels.votes import select_positions_naive, select_positions_vectorized

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def pair(t, n, *, heads=4, kv_heads=2, d=16, dtype=torch.float32, integers=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(2, heads, t, d, generator=generator)
    key = torch.randn(2, kv_heads, n, d, generator=generator)
    if integers:  # exact in every dtype, and full of ties
        query, key = query.round(), key.round()
    return query.to(dtype), key.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", ["exact", "block_max"])
@pytest.mark.parametrize(
    ("t", "n", "k"),
    [
        (5, 77, 4),
        (1, 16385, 4),
        (3, 33001, 1),
        (700, 130, 16),
        (3, 3, 4),
        (2, 1, 1),
        (0, 9, 2),
        (2, 0, 3),
    ],
    ids=str,
)
def test_blockwise_equals_naive_with_ties(t, n, k, mode, dtype):
    query, key = pair(t, n, dtype=dtype, integers=True)
    got = topk_keys_blockwise(query, key, k, mode)
    assert torch.equal(got, topk_keys_naive(query, key, k, mode))


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (3, 1), (4, 1), (14, 2)], ids=str)
@pytest.mark.parametrize("d", [32, 80, 256])
def test_gqa_and_head_dims(heads, kv_heads, d):
    query, key = pair(9, 301, heads=heads, kv_heads=kv_heads, d=d, dtype=torch.float64)
    assert torch.equal(topk_keys(query, key, 3), topk_keys_naive(query, key, 3))


def test_real_valued_bf16_equals_a_float64_reference():
    """bf16 products are exact in float32: only sums within rounding of each other may swap."""
    query, key = pair(64, 20_000, dtype=torch.bfloat16)
    got = topk_keys(query, key, 4).long()
    scores = torch.einsum(
        "bghtd,bgnd->bghtn", query.double().unflatten(1, (2, 2)), key.double()
    ).flatten(1, 2)
    best = scores.topk(4, dim=-1).values
    torch.testing.assert_close(scores.gather(-1, got), best, rtol=0, atol=1e-5)


def test_all_equal_scores_take_the_first_keys():
    query, key = torch.zeros(1, 2, 3, 8), torch.ones(1, 1, 17000, 8)
    assert topk_keys(query, key, 4).tolist() == [[[[0, 1, 2, 3]] * 3] * 2]


def test_keys_may_be_a_view_into_a_larger_cache():
    query, key = pair(4, 200)
    view = key[:, :, 30:140]
    assert torch.equal(topk_keys(query, view, 4), topk_keys(query, view.clone(), 4))


def test_settings_of_the_process_are_left_alone():
    before = torch.backends.mkldnn.matmul.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    topk_keys(*pair(4, 40, dtype=torch.bfloat16), 2)
    after = torch.backends.mkldnn.matmul.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    assert before == after


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, k: (q[0], k, 4), "takes query"),
        (lambda q, k: (q[:1], k, 4), "agree in batch"),
        (lambda q, k: (q[:, :3], k, 4), "must be a multiple"),
        (lambda q, k: (q.half(), k, 4), "one floating-point dtype"),
        (lambda q, k: (q, k, 0), "at least 1"),
        (lambda q, k: (q, k, 4, "fast"), "unknown mode 'fast'; there are: exact, block_max"),
    ],
    ids=["dims", "batch", "heads", "dtype", "k", "mode"],
)
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message):
        topk_keys(*change(*pair(4, 40)))


@pytest.mark.parametrize("span_size", [1, 2, 5, 32])
@pytest.mark.parametrize("max_spans", [1, 3, 400])
@pytest.mark.parametrize("n", [1, 6, 300])
def test_votes_equal_naive(n, max_spans, span_size):
    generator = torch.Generator().manual_seed(n)
    winners = torch.randint(-1, n, (3, 2, 40, 4), generator=generator, dtype=torch.int32)
    winners[2] = -1  # a row in which nobody votes
    expected = select_positions_naive(winners, n, max_spans, span_size)
    for got, want in zip(
        select_positions_vectorized(winners, n, max_spans, span_size), expected, strict=True
    ):
        assert torch.equal(got, want)


def test_spans_by_hand():
    """Votes 9: 3, 2: 2, 5: 2, 0: 1 -> kept 9, 2, 5; spans of 4 reach from p-2 to p+1."""
    winners = torch.tensor([9, 9, 9, 2, 5, 2, 5, 0]).view(1, 1, 2, 4)
    positions, count = select_positions(winners, 10, max_spans=3, span_size=4)
    assert count.tolist() == [10]
    assert positions[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, -1, -1]


def test_spans_at_the_ends_are_cut_not_shifted():
    winners = torch.tensor([0, 9]).view(1, 1, 1, 2)
    positions, count = select_positions(winners, 10, max_spans=2, span_size=4)
    assert positions[0, : int(count)].tolist() == [0, 1, 7, 8, 9]
