"""Parts of the keys joined by their log-sums against one softmax over all of them."""

from __future__ import annotations

import pytest
import torch

from reattention_eval.attention import attend_parts, banded_view
from reattention_eval.attention.attend_parts import BandMask, JoinedParts
from reattention_eval.attention.rope import IdentityRotary, ViewRope, rotate_half_split
from reattention_eval.cache import RowCache
from reattention_eval.methods import DualChunkAttention, SelfExtend

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("plainly", [False, True], ids=["fused", "plainly"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(3, 3, 8), (6, 2, 20), (7, 1, 16)], ids=str)
def test_parts_are_one_softmax(heads, kv_heads, dim, dtype, plainly, monkeypatch):
    """Odd lengths, scores far apart, queries that see nothing of a part, or of any."""
    if plainly:
        monkeypatch.setattr(attend_parts, "_attend", attend_parts._attend_plainly)
    generator = torch.Generator().manual_seed(dim)
    query, key, value = (
        (factor * torch.randn(h, n, dim, generator=generator)).to(dtype)
        for h, n, factor in ((heads, 5, 4.0), (kv_heads, 61, 3.0), (kv_heads, 61, 1.0))
    )
    mask = torch.rand(5, 61, generator=generator) < 0.4
    mask[1, :30], mask[2, 30:], mask[3] = False, False, False
    joined = JoinedParts(query)
    for part in (slice(0, 30), slice(30, 31), slice(31, 61)):
        joined.add(query, key[:, part], value[:, part], 0.5, BandMask(mask[:, part]))
    q, k, v = (
        query.double(),
        *(x.double().repeat_interleave(heads // kv_heads, 0) for x in (key, value)),
    )
    weights = (0.5 * q @ k.transpose(1, 2)).masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num()
    found = joined.answer()
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(found.double(), weights @ v, rtol=0, atol=TOLERANCE[dtype])
    assert not found[:, 3].any()


@pytest.mark.parametrize("method", [SelfExtend(3, 7), DualChunkAttention(6, 8)], ids=str)
def test_long_bands_in_parts(method, monkeypatch):
    rope = ViewRope(IdentityRotary({None: 8}), rotate_half_split)
    generator = torch.Generator().manual_seed(0)
    row = RowCache(*(torch.randn(2, 41, 8, generator=generator) for _ in range(2)))
    query = torch.randn(6, 5, 8, generator=generator)
    view = method.view(row, query)
    whole = banded_view.attend_banded(rope, view, row, query, 0.3)
    monkeypatch.setattr(banded_view, "PART", 4)
    parts = banded_view.attend_banded(rope, view, row, query, 0.3)
    torch.testing.assert_close(parts, whole, rtol=0, atol=2e-6)
