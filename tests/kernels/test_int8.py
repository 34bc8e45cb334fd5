"""The 8-bit index: its bounds hold, and what it certifies is the exact top-k."""

from __future__ import annotations

import pytest
import torch
from kernels.triton_cases import make_inputs

from reattention_kernels.topk_keys import topk_keys_naive

pytest.importorskip("triton")
from reattention_kernels.topk_keys import int8_certify
from reattention_kernels.topk_keys.int8_certify import topk_keys_int8
from reattention_kernels.topk_keys.int8_index import Int8Index, hadamard
from reattention_kernels.topk_keys.triton import interpreted

pytestmark = pytest.mark.skipif(not interpreted(), reason="on a GPU test_gpu.py does this")


def index_of(key: torch.Tensor, *ends: int) -> Int8Index:
    """Filled up to each end in turn."""
    index = Int8Index.empty(key.shape[0], key.shape[1], key.shape[2], key)
    for end in (*ends, key.shape[2]):
        index.update(key[:, :, :end])
    return index


def test_hadamard_is_orthogonal():
    matrix = hadamard(64, torch.device("cpu"), torch.float64)
    assert torch.equal(matrix @ matrix.T, 64 * torch.eye(64, dtype=torch.float64))
    assert torch.equal(matrix, matrix.T)


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_bounds_hold_for_every_block(shift, monkeypatch):
    query, key = make_inputs("normal", 2, 1, 4, 1000, 64, torch.float32, seed=5)
    key = key + shift
    seen = {}

    def keep(rotated, terms, keys, blocks, size):
        seen["packed"] = naive(rotated, terms, keys, blocks, 8)  # all eight tiles
        seen["terms"] = terms
        return seen["packed"]

    naive = int8_certify.best_bounds_naive
    monkeypatch.setattr(int8_certify, "best_bounds_naive", keep)
    topk_keys_int8(query, key, index_of(key), 4)
    packed, terms = seen["packed"], seen["terms"]
    bits = (packed >> 32).int()
    u = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32).double()
    bound = u * terms[..., 0:1].double() + terms[..., 1:2].double()  # [1, rows, blocks]
    block = (0x7FFFFFFF - (packed & 0xFFFFFFFF)).long()
    scores = query.double().reshape(8, 64) @ key[0, 0].double().T
    n = torch.arange(1000)
    of_key = n // 128 * 4 + n % 8 // 2
    for row in range(8):
        true = torch.full((32,), -torch.inf, dtype=torch.float64)
        true.scatter_reduce_(0, of_key, scores[row], "amax")
        slack = bound[0, row] - true[block[0, row]]
        assert (slack > -1e-4).all()
        assert slack.median() < 0.2 * scores.std() * 64**0.5  # and they are not idle


@pytest.mark.parametrize(
    ("kind", "sizes", "k"),
    [
        ("normal", (4, 2, 3, 2500, 64), 4),
        ("integers", (4, 1, 2, 1300, 128), 7),
        ("repeated", (2, 1, 2, 1500, 64), 1),
        ("normal", (2, 2, 1, 1, 64), 4),
        ("normal", (3, 1, 2, 130, 64), 4),
    ],
)
@pytest.mark.usefixtures("poisoned_memory")
def test_same_positions_as_exact(kind, sizes, k):
    query, key = make_inputs(kind, *sizes, torch.float32, seed=3)
    ends = (key.shape[2] // 3, key.shape[2] - 5) if key.shape[2] > 10 else ()
    winners, n_open = topk_keys_int8(query, key, index_of(key, *ends), k)
    assert torch.equal(winners, topk_keys_naive(query, key, k))
    if kind == "normal":
        assert int(n_open.sum()) == 0  # certified, not saved by the fallback


def test_rows_without_a_certificate_take_the_16_bit_pass():
    query, key = make_inputs("equal", 2, 1, 3, 2300, 64, torch.float32)
    winners, n_open = topk_keys_int8(query, key, index_of(key), 4)
    assert int(n_open) == 6  # all bounds tie
    assert (winners == torch.arange(4)).all()


def test_an_index_that_lags_is_refused():
    query, key = make_inputs("normal", 2, 1, 3, 300, 64, torch.float32)
    with pytest.raises(ValueError, match="holds 299 keys"):
        topk_keys_int8(query, key, index_of(key[:, :, :299]), 4)
