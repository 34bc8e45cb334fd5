"""K10: the exact top-k against float64, and the other kernels against their references."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reattention_kernels.bench.data import make_keys, make_queries, rope_tables
from reattention_kernels.topk_keys.triton import topk_keys_triton
from reattention_kernels.view.launch import attend_view_triton
from reattention_kernels.view.naive import SelectedView, attend_view_naive
from reattention_kernels.votes.triton import select_positions_triton
from reattention_kernels.votes.vectorized import select_positions_vectorized

# heads, KV heads, queries, keys, head_dim, k
SHAPES = [
    (32, 8, 512, 131_072, 128, 4),
    (32, 8, 64, 1_048_576, 128, 4),
    (32, 8, 1, 1_048_576, 128, 4),
    (32, 8, 512, 131_072, 64, 4),
    (32, 8, 1, 131_072, 64, 4),
    (8, 8, 33, 4_999, 128, 1),
    (12, 4, 129, 10_007, 96, 8),
    (28, 4, 65, 20_001, 128, 16),
    (7, 1, 3, 777, 32, 4),
    (8, 2, 50, 5_003, 256, 4),
]
# positions, winners, spans, span size
VOTE_SHAPES = [(131_072, 65_536, 127, 32), (5_000, 128, 127, 32), (50, 64, 7, 5)]


def check_kernels() -> dict[str, dict[str, Any]]:
    """Raw numbers of K10, by kind of data: winners compared and how many are wrong."""
    raw: dict[str, dict[str, Any]] = {}
    for kind in ("random", "ar", "integers"):
        raw[kind] = {"winners": 0, "misses": 0}
        for shape in SHAPES:
            _check_topk(kind, shape, raw[kind])
        torch.cuda.empty_cache()
    _check_votes()
    _check_view()
    return raw


def _check_topk(kind: str, shape: tuple[int, int, int, int, int, int], raw: dict[str, Any]) -> None:
    heads, kv_heads, t, n, d, k = shape
    if kind == "integers":
        generator = torch.Generator("cuda").manual_seed(n)
        options = dict(device="cuda", generator=generator)
        query = torch.randint(-3, 4, (1, heads, t, d), **options).bfloat16()  # type: ignore[call-overload]
        key = torch.randint(-3, 4, (1, kv_heads, n, d), **options).bfloat16()  # type: ignore[call-overload]
    else:
        query, key = make_queries(kind, heads, t, d, seed=n), make_keys(kind, kv_heads, n, d, n + 1)
    winners = topk_keys_triton(query, key, k)
    for h in range(heads):
        raw["misses"] += misses(query[0, h], key[0, h * kv_heads // heads], winners[0, h], kind)
    raw["winners"] += winners.numel()


def misses(query: Tensor, key: Tensor, winners: Tensor, kind: str) -> int:
    """Winners [T, k] that a float64 reference does not have.

    Integers are exact in every format: their positions must be the reference's. Elsewhere a winner
    is right if its float64 score is within 4 float32 ulps of the k-th best.
    """
    wrong = 0
    k = winners.shape[1]
    for part in range(0, len(query), 64):  # 64 x 1M float64 scores are 0.5 GiB
        scores = query[part : part + 64].double() @ key.double().T
        found = winners[part : part + 64].long()
        if kind == "integers":  # lower position first among equals
            n = scores.shape[1]
            order = scores * n - torch.arange(n, device=scores.device)
            wrong += int((order.topk(k, 1).indices != found).sum())
            continue
        kth = scores.topk(k, 1).values[:, -1:]
        slack = 4 * kth.abs() * torch.finfo(torch.float32).eps
        wrong += int((scores.gather(1, found) < kth - slack).sum())
        ordered = found.sort(1).values
        wrong += int((ordered[:, 1:] == ordered[:, :-1]).sum())  # one key twice
    return wrong


def _check_votes() -> None:
    for n, total, spans, span in VOTE_SHAPES:
        spread = torch.randn(1, 1, total // 4, 4, device="cuda").abs() * n / 4
        chosen = spread.int().clamp(max=n - 1)
        got = select_positions_triton(chosen, n, spans, span)
        want = select_positions_vectorized(chosen, n, spans, span)
        if not all(torch.equal(a, b) for a, b in zip(got, want, strict=True)):
            raise AssertionError(f"votes differ from the reference at n={n}")


def _check_view() -> None:
    for t in (1, 512):
        query, key = make_queries("random", 8, t, 128, 1), make_keys("random", 2, 20_000, 128, 2)
        value = make_keys("random", 2, 20_000, 128, 3)
        positions = torch.full((1, 4064), -1, dtype=torch.int32, device="cuda")
        positions[0, :1000] = torch.randperm(15_000, device="cuda")[:1000].sort().values.int()
        count = torch.tensor([1000], dtype=torch.int32, device="cuda")
        view = SelectedView(positions, count, *rope_tables(8192, 128), 32, 4096, True)
        got = attend_view_triton(query, key, value, view, 128**-0.5).float()
        want = attend_view_naive(query, key, value, view, 128**-0.5).float()
        if not (got - want).norm() / want.norm() < 1e-2:
            raise AssertionError(f"the view's attention is off at T={t}")
