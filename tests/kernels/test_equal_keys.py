"""Equal keys score equal and order by position, however a processor rounds its products."""

from __future__ import annotations

import pytest
import torch
from rounding import rounding_by_row

from reattention_kernels import topk_keys
from reattention_kernels.topk_keys import blockwise, topk_keys_blockwise, topk_keys_naive
from reattention_kernels.topk_keys.products import exact_products
from reattention_kernels.topk_keys.scores import pair_scores, product_margin, repeats

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
MODES = ["exact", "block_max"]


def cache_of(kind: str, n: int, d: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Keys [1, 2, n, d] full of ties ("repeated") or of ties but for the last place ("close")."""
    draw = torch.Generator().manual_seed(seed)
    few = torch.randn(1, 2, max(1, n // 30), d, generator=draw).to(dtype)
    key = few[:, :, torch.randint(0, few.shape[2], (n,), generator=draw)]
    if kind == "close":
        places = torch.randint(-1, 2, key.shape, generator=draw)
        key = (key.double() * (1 + places * torch.finfo(dtype).eps)).to(dtype)
    return key


def queries(rows: int, d: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(1, 6, rows, d, generator=torch.Generator().manual_seed(rows)).to(dtype)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_keys_equal(dtype, mode):
    for n in (3, 5, 8, 17, 33, 100, 127, 129, 256, 300, 500):
        for rows in (1, 2, 3, 5, 8, 13, 20):
            draw = torch.Generator().manual_seed(n + rows)
            key = torch.randn(1, 1, 1, 8, generator=draw).to(dtype).expand(1, 1, n, 8).contiguous()
            query = torch.randn(1, 1, rows, 8, generator=draw).to(dtype)
            firsts = list(range(n)) if mode == "exact" else list(range(0, n, 128))
            firsts = (firsts + [-1] * 4)[:4]
            assert topk_keys(query, key, 4, mode)[0, 0].tolist() == [firsts] * rows


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["repeated", "close"])
@pytest.mark.parametrize(("rows", "n"), [(1, 700), (90, 700), (3, 17_000)], ids=str)
def test_products_that_round_by_row(rows, n, kind, dtype, mode, monkeypatch):
    query, key = queries(rows, 32, dtype), cache_of(kind, n, 32, dtype)
    want = topk_keys_naive(query, key, 4, mode)
    monkeypatch.setattr(torch, "mm", rounding_by_row)
    assert torch.equal(topk_keys_blockwise(query, key, 4, mode), want)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("rows", "n", "k"), [(1, 3, 4), (2, 300, 4), (40, 16_390, 3), (0, 9, 2)])
def test_every_row_decided_from_all_keys(rows, n, k, mode, monkeypatch):
    """As if no product were ever sure."""
    query, key = queries(rows, 16, torch.float32), cache_of("repeated", n, 16, torch.float32)
    monkeypatch.setattr(
        blockwise, "product_margin", lambda query, key: query.new_full(query.shape[:-1], torch.inf)
    )
    want = topk_keys_naive(query, key, k, mode)
    assert torch.equal(topk_keys_blockwise(query, key, k, mode), want)


@pytest.mark.parametrize("d", [1, 2, 7, 64, 80])
def test_a_score_is_one_order_of_additions(d):
    """By a loop, and wherever the two vectors lie in memory."""
    query, key = (torch.randn(9, d, dtype=torch.float64) for _ in range(2))
    found = pair_scores(query, key)
    for row in range(9):
        terms = [float(a) * float(b) for a, b in zip(query[row], key[row], strict=True)]
        while len(terms) > 1:
            half = (len(terms) + 1) // 2
            rest = terms[half:] + [0.0] * (2 * half - len(terms))
            terms = [a + b for a, b in zip(terms[:half], rest, strict=True)]
        assert float(found[row]) == terms[0]
    wide = torch.zeros(9, 3 * d + 1, dtype=torch.float64)
    wide[:, 1::3] = key
    assert torch.equal(pair_scores(query, wide[:, 1::3]), found)
    assert torch.equal(pair_scores(query[2:5], key[2:5]), found[2:5])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", [8, 64, 128])
def test_no_product_is_off_by_more_than_the_margin_says(d, dtype, monkeypatch):
    draw = torch.Generator().manual_seed(d)
    query, key = (torch.randn(n, d, generator=draw).to(dtype) for n in (20, 500))
    query[:5], key[:100] = query[:5].abs(), key[:100].abs()  # sums that only grow
    key[100:150] *= 1e-30 if dtype in (torch.float32, torch.bfloat16) else 1e-6
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    query, key = query.to(wide), key.to(wide)
    scores = pair_scores(query[:, None], key[None])
    margin = product_margin(query, key)
    for product in (torch.mm, rounding_by_row):
        with exact_products(dtype):
            off = (product(key, query.T.contiguous()).T - scores).abs()
        assert (2 * off <= margin[:, None]).all()
    assert (margin < 1e-3 * query.norm(dim=1) * key.norm(dim=1).max()).all()  # and it is not idle


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("spare", [1, 3])
def test_repeats(spare, dtype):
    key = cache_of("repeated", 200, 5, dtype)[0, 0]
    key[50:60] = 0
    rows = [tuple(row) for row in key.double().tolist()]
    expected = [rows[:i].count(row) >= spare for i, row in enumerate(rows)]
    assert repeats(key, spare).tolist() == expected
