"""The Triton forms of select_positions, in the interpreter, against the naive form."""

from __future__ import annotations

import pytest
import torch

from reattention_kernels import votes
from reattention_kernels.votes import MAX_WEIGHT, select_positions_naive

pytest.importorskip("triton")
from reattention_kernels.topk_keys.triton import interpreted
from reattention_kernels.votes.triton import FEW_WINNERS, select_positions_triton

pytestmark = [
    pytest.mark.skipif(not interpreted(), reason="on a GPU test_gpu.py does this"),
    pytest.mark.usefixtures("poisoned_memory"),
]

# batch, winners, positions, spans, span size
FEW = [(1, 128, 1000, 127, 32), (2, 64, 50, 7, 5), (1, 16, 1, 4, 4), (1, 500, 400, 9, 1)]
MANY = [(1, 2000, 9000, 127, 32), (2, 3000, 5000, 7, 1), (1, 700, 10_000, 16, 8), (1, 600, 3, 5, 4)]
MANY += [(2, 132, 9000, 256, 32), (1, 2000, 9000, 256, 32), (1, 256, 300, 200, 3)]


@pytest.mark.parametrize("spread", [None, 0.002, 0.1])
@pytest.mark.parametrize("shape", FEW + MANY, ids=str)
def test_equals_the_naive_form(shape, spread):
    batch, total, n, spans, span = shape
    draw = torch.Generator().manual_seed(total)
    chosen = torch.randint(n, (batch, 1, total // 4, 4), generator=draw)
    if spread is not None:  # many votes for few positions
        chosen = (
            (torch.randn(chosen.shape, generator=draw).abs() * n * spread).long().clamp(max=n - 1)
        )
    chosen[torch.rand(chosen.shape, generator=draw) < 0.1] = -1
    got = select_positions_triton(chosen.int(), n, spans, span)
    want = select_positions_naive(chosen.int(), n, spans, span)
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])


@pytest.mark.parametrize("total", [64, FEW_WINNERS + 4])
def test_no_votes_at_all(total):
    positions, count = select_positions_triton(
        torch.full((1, 1, total // 4, 4), -1).int(), 99, 5, 4
    )
    assert int(count) == 0
    assert (positions == -1).all()


def test_every_position_equally_loved():
    chosen = torch.arange(800).int().reshape(1, 1, 200, 4)
    got = select_positions_triton(chosen, 5000, 10, 8)
    want = select_positions_naive(chosen, 5000, 10, 8)
    assert torch.equal(got[0], want[0])


@pytest.mark.parametrize("grid", [False, True], ids=["around", "grid"])
@pytest.mark.parametrize("shape", [FEW[0], FEW[1], MANY[1], MANY[4]], ids=str)
def test_weighted_votes(shape, grid, monkeypatch):
    """By kernels and by PyTorch, as the naive form; on a grid with a length for each entry."""
    batch, total, n, spans, span = shape
    draw = torch.Generator().manual_seed(total)
    chosen = torch.randint(n, (batch, 1, total // 4, 4), generator=draw)
    chosen[..., :2] %= 1 + n // 9
    chosen[torch.rand(chosen.shape, generator=draw) < 0.1] = -1
    weights = torch.randint(1, MAX_WEIGHT + 1, chosen.shape, generator=draw)
    weights[..., 3] = MAX_WEIGHT
    given = chosen.int(), n, spans, span
    want = select_positions_naive(*given, weights.int(), grid)
    known = torch.full((batch,), n + 7, dtype=torch.int32)
    for by_kernels in (False, True):
        monkeypatch.setattr(votes, "use_triton", lambda *_, by_kernels=by_kernels: by_kernels)
        for device_length in (None, known, known[:1]):
            got = votes.select_positions(*given, device_length, 7, weights.int(), grid)
            assert torch.equal(got[0], want[0])
            assert torch.equal(got[1], want[1])
