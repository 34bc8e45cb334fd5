"""The 8-bit index: its bounds hold, and what comes through it is the exact top-k."""

from __future__ import annotations

import pytest
import torch
from kernels.triton_cases import make_inputs

from reattention_kernels.topk_keys import topk_keys_naive

pytest.importorskip("triton")
from reattention_kernels.topk_keys import int8_select
from reattention_kernels.topk_keys.int8_index import Int8Index, hadamard, quantize_queries_kernel
from reattention_kernels.topk_keys.int8_naive import bounds_naive
from reattention_kernels.topk_keys.int8_select import topk_keys_int8
from reattention_kernels.topk_keys.int8_warm import best_remembered, remember
from reattention_kernels.topk_keys.triton import interpreted

pytestmark = pytest.mark.skipif(not interpreted(), reason="on a GPU test_gpu.py does this")


def index_of(key: torch.Tensor, *ends: int) -> Int8Index:
    """Filled up to each end in turn."""
    index = Int8Index.empty(key.shape[0], key.shape[1], key.shape[2], key)
    for end in (*ends, key.shape[2]):
        index.update(key[:, :, :end])
    return index


def warmed(index: Int8Index, winners: torch.Tensor, kv_heads: int) -> Int8Index:
    remember(index, winners, kv_heads)
    return index


def test_hadamard_is_orthogonal():
    matrix = hadamard(64, torch.device("cpu"), torch.float64)
    assert torch.equal(matrix @ matrix.T, 64 * torch.eye(64, dtype=torch.float64))
    assert torch.equal(matrix, matrix.T)


def of_key(n: int) -> torch.Tensor:
    """The block of each key."""
    at = torch.arange(n)
    return at // 128 * 4 + at % 8 // 2


@pytest.mark.parametrize("shift", [0.0, 3.0])
@pytest.mark.parametrize("rank", [0, 3, 40, 999])
def test_a_block_that_reaches_the_score_reaches_the_threshold(shift, rank):
    query, key = make_inputs("normal", 2, 1, 4, 1000, 64, torch.float32, seed=5)
    key = key + shift
    index = index_of(key)
    scores = (query.double().reshape(8, 64) @ key[0, 0].double().T).float()
    kth = scores.sort(1, descending=True).values[:, rank : rank + 1].contiguous()
    rotated = torch.empty(1, 1, 8, 64, dtype=torch.int8)
    terms = torch.empty(1, 8, 4)
    quantize_queries_kernel[(1, 1)](
        query, index.matrix, index.mean, index.largest, kth, rotated, terms, 4, 8, 1, 1, 1,
        *query.stride()[:3], GROUP=2, D=64, ROWS=64, K=1, SCORES=1, UPCAST=True,
    )  # fmt: skip
    n = torch.tensor([1000], dtype=torch.int32)
    reached = bounds_naive(rotated, terms, index.keys, index.blocks, n)[0] >= terms[0, :, :1]
    most = torch.full((8, 32), -torch.inf)
    most.scatter_reduce_(1, of_key(1000).expand(8, -1), scores, "amax")
    assert reached[most >= kth].all()
    wider = most >= kth - 0.2 * scores.std(1, keepdim=True)
    assert reached.sum() <= wider.sum()  # and the bounds are not idle


@pytest.mark.parametrize(
    ("kind", "sizes", "k"),
    [
        ("normal", (4, 2, 3, 1500, 64), 4),
        ("integers", (4, 1, 2, 1300, 128), 7),
        ("repeated", (2, 1, 2, 1500, 64), 1),
        ("normal", (2, 2, 1, 1, 64), 4),
        ("normal", (3, 1, 2, 130, 64), 4),
        ("normal", (12, 2, 2, 500, 64), 3),
        ("equal", (2, 1, 3, 100, 64), 4),
    ],
)
@pytest.mark.usefixtures("poisoned_memory", "few_programs")
def test_same_positions_as_exact(kind, sizes, k):
    query, key = make_inputs(kind, *sizes, torch.float32, seed=3)
    ends = (key.shape[2] // 3, key.shape[2] - 5) if key.shape[2] > 10 else ()
    index, expected = index_of(key, *ends), topk_keys_naive(query, key, k)
    winners, n_open = topk_keys_int8(query, key, index, k)
    assert torch.equal(winners, expected)
    assert (n_open == query.shape[1] // key.shape[1] * query.shape[2]).all()  # none remembered yet
    winners, n_open = topk_keys_int8(query, key, index, k)
    assert torch.equal(winners, expected)
    assert int(n_open.sum()) == 0  # through the index, not saved by the 16-bit pass


@pytest.mark.usefixtures("poisoned_memory", "few_programs")
def test_winners_of_other_queries_serve_as_well():
    query, key = make_inputs("normal", 4, 2, 3, 900, 64, torch.float32, seed=3)
    others = topk_keys_naive(query.flip(1) + 0.5, key, 4)
    index = warmed(index_of(key), others, 2)
    winners, n_open = topk_keys_int8(query, key, index, 4)
    assert torch.equal(winners, topk_keys_naive(query, key, 4))
    assert int(n_open.sum()) <= 2  # a poor threshold lets many keys through


def test_thresholds_are_scores_of_distinct_keys():
    query, key = make_inputs("normal", 2, 1, 4, 9000, 64, torch.float32, seed=1)
    twice = torch.tensor([5, 5, 5, 5, 4101, 8950, 4095, 8191], dtype=torch.int32)
    index = warmed(index_of(key), twice.expand(1, 2, 1, -1), 1)
    n = torch.tensor([8950], dtype=torch.int32)
    found, parts = best_remembered(query, key, index, 4, n)
    position = index.winners[0][(index.winners[0] >= 0) & (index.winners[0] < 8950)]
    assert set(position.tolist()) <= {5, 4095, 4101, 8191} and len(position) == 2  # slots collide
    scores = query.reshape(8, 64) @ key[0, 0, position.long()].T
    expected = torch.nn.functional.pad(scores, (0, parts - 2), value=-torch.inf)
    torch.testing.assert_close(found[0].sort(1).values, expected.sort(1).values)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.usefixtures("poisoned_memory", "few_programs")
def test_entries_see_keys_up_to_lengths_of_their_own(batch):
    query, key = make_inputs("normal", 4, 2, 2, 1100, 64, torch.float32, seed=9)
    queries = torch.cat([query + i for i in range(batch)])
    lengths = torch.tensor([700, 1023, 1100][:batch], dtype=torch.int32)
    shared = key.expand(batch, -1, -1, -1)
    index = index_of(key)
    for _ in range(2):
        winners, n_open = topk_keys_int8(queries, shared, index, 4, lengths)
        for i, length in enumerate(lengths.tolist()):
            expected = topk_keys_naive(queries[i : i + 1], key[:, :, :length], 4)
            assert torch.equal(winners[i : i + 1], expected)
    assert int(n_open.sum()) == 0


@pytest.mark.usefixtures("poisoned_memory", "few_programs")
def test_rows_without_room_take_the_16_bit_pass(monkeypatch):
    monkeypatch.setattr(int8_select, "ROOMS", ((1024, 2),))
    query, key = make_inputs("normal", 4, 2, 3, 1300, 64, torch.float32, seed=2)
    query[0, 1] = 0  # all scores of these rows tie
    index = warmed(index_of(key), topk_keys_naive(query, key, 4), 2)
    winners, n_open = topk_keys_int8(query, key, index, 4)
    assert torch.equal(winners, topk_keys_naive(query, key, 4))
    assert 3 <= int(n_open[0]) < 6  # of one head, not of all rows


@pytest.mark.usefixtures("poisoned_memory", "few_programs")
def test_more_keys_of_a_row_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(int8_select, "FOUND", 8)
    query, key = make_inputs("integers", 4, 2, 2, 700, 64, torch.float32, seed=2)
    query[0, 1] = 0  # all scores of these rows tie
    index = warmed(index_of(key), topk_keys_naive(query, key, 4), 2)
    winners, n_open = topk_keys_int8(query, key, index, 4)
    assert torch.equal(winners, topk_keys_naive(query, key, 4))
    assert 2 <= int(n_open[0]) < 4


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.usefixtures("poisoned_memory", "few_programs")
def test_a_large_batch_goes_in_parts(shared, monkeypatch):
    monkeypatch.setattr(int8_select, "ROWS_AT_ONCE", 2 * 4 * 2)
    query, key = make_inputs("normal", 4, 2, 2, 600, 64, torch.float32, seed=6)
    queries = torch.cat([query + i for i in range(3)])
    keys = key.expand(3, -1, -1, -1) if shared else torch.cat([key, key.flip(2), -key])
    index = index_of(key if shared else keys)
    expected = torch.cat(
        [topk_keys_naive(queries[i : i + 1], keys[i : i + 1], 4) for i in range(3)]
    )
    for _ in range(2):
        winners, n_open = topk_keys_int8(queries, keys, index, 4)
        assert torch.equal(winners, expected)
        assert n_open.shape == (6,)
    assert int(n_open.sum()) == 0


@pytest.mark.parametrize("kind", ["normal", "equal"])
@pytest.mark.usefixtures("poisoned_memory", "few_programs")
def test_more_pairs_than_there_is_room_for(kind, monkeypatch):
    monkeypatch.setattr(int8_select, "PAIRS_A_ROW", 1)
    query, key = make_inputs(kind, 4, 2, 2, 900, 64, torch.float32, seed=2)
    index = warmed(index_of(key), topk_keys_naive(query, key, 4), 2)
    winners, n_open = topk_keys_int8(query, key, index, 4)
    assert torch.equal(winners, topk_keys_naive(query, key, 4))
    assert int(n_open.sum()) > 0


@pytest.mark.usefixtures("poisoned_memory", "few_programs")
def test_zero_keys_and_winners_that_are_gone():
    query, key = make_inputs("normal", 2, 1, 3, 400, 64, torch.float32, seed=4)
    key[:, :, 100:] = 0
    gone = torch.full((1, 2, 3, 4), 399, dtype=torch.int32)
    index = warmed(index_of(key), gone, 1)
    length = torch.tensor([300], dtype=torch.int32)
    winners, _ = topk_keys_int8(query, key, index, 4, length)
    assert torch.equal(winners, topk_keys_naive(query, key[:, :, :300], 4))


def test_an_index_that_lags_is_refused():
    query, key = make_inputs("normal", 2, 1, 3, 300, 64, torch.float32)
    with pytest.raises(ValueError, match="holds 299 keys"):
        topk_keys_int8(query, key, index_of(key[:, :, :299]), 4)
