"""Several chunks of one row in one call: what each chunk gives alone, with its own limit."""

from __future__ import annotations

import pytest
import torch
from kernels.triton_cases import KINDS, make_inputs

from reattention_kernels.topk_keys import topk_keys, topk_keys_blockwise
from reattention_kernels.votes import select_positions, select_positions_vectorized

pytest.importorskip("triton")
from reattention_kernels.topk_keys.triton import Tile, topk_keys_triton
from reattention_kernels.votes.triton import select_positions_triton

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def chunks_of_a_row(kind, heads, kv_heads, t, limits, d, dtype=torch.float32, device="cpu"):
    """query [C, H, T, D], a strided view of [C * T, H, D]; key [C, Hkv, N, D], stored once."""
    count = len(limits)
    query, key = make_inputs(
        kind, heads, kv_heads, count * t, max(limits) + 40, d, dtype, 1, device, seed=len(limits)
    )
    rows = query[0].transpose(0, 1).contiguous()  # [C * T, H, D], as a projection writes it
    length = torch.tensor(limits, dtype=torch.int32, device=device)
    return rows.view(count, t, heads, d).transpose(1, 2), key.expand(count, -1, -1, -1), length


def alone(form, query, key, length, *settings):
    """The chunks one after another, each with the keys up to its limit."""
    answers = [
        form(query[c : c + 1].contiguous(), key[c : c + 1, :, : int(n)], *settings)
        for c, n in enumerate(length)
    ]
    return torch.cat(answers)


@pytest.mark.parametrize("form", [topk_keys_triton, topk_keys])
@pytest.mark.parametrize(
    ("kind", "mode"), [("integers", "exact"), ("repeated", "exact"), ("equal", "block_max")]
)
def test_winners(form, kind, mode):
    group = chunks_of_a_row(kind, 6, 2, 3, [1, 130, 257, 300], 32)
    got = form(*group[:2], 4, mode, group[2])
    assert torch.equal(got, alone(topk_keys_blockwise, *group, 4, mode))


def test_a_limit_before_a_split_of_the_keys():
    """Whole splits, and tiles within one, lie behind the first limits."""
    query, key, length = chunks_of_a_row("repeated", 2, 1, 2, [3, 2100], 32)
    tile = Tile(64, 64, 4, 2)
    got = topk_keys_triton(query[:1], key[:1], 4, "exact", length[:1], tile)  # two splits
    assert torch.equal(got, alone(topk_keys_blockwise, query[:1], key[:1], length[:1], 4))
    got = topk_keys_triton(query, key, 4, "exact", length, tile)
    assert torch.equal(got, alone(topk_keys_blockwise, query, key, length, 4))


def test_entries_with_keys_of_their_own():
    query, key = make_inputs("integers", 4, 2, 2, 150, 32, torch.float32, 3)
    length = torch.tensor([150, 9, 77], dtype=torch.int32)
    want = alone(topk_keys_blockwise, query, key, length, 4)
    for form in (topk_keys, topk_keys_triton):
        assert torch.equal(form(query, key, 4, "exact", length), want)


def test_limits_anywhere_in_memory():
    """Every other element of a longer tensor, and one number for all."""
    query, key, length = chunks_of_a_row("integers", 2, 1, 3, [20, 90, 150], 32)
    spread = torch.stack((length, length * 0), 1)[:, 0]
    want = alone(topk_keys_blockwise, query, key, length, 4)
    assert torch.equal(topk_keys_triton(query, key, 4, "exact", spread), want)
    same = alone(topk_keys_blockwise, query, key, length[:1].expand(3), 4)
    for form in (topk_keys, topk_keys_triton):
        assert torch.equal(form(query, key, 4, "exact", length[:1]), same)


@pytest.mark.parametrize("form", [select_positions_triton, select_positions])
@pytest.mark.parametrize("winners", [24, 600])
def test_votes(form, winners):
    limits = [50, 251, 400]
    chosen = torch.stack(
        [torch.randint(0, n, (2, winners // 8, 4), dtype=torch.int32) for n in limits]
    )
    chosen[:, 0, 0] = torch.tensor(limits)[:, None] - 1  # a span that ends with the positions
    got = form(chosen, 400, 7, 16, torch.tensor(limits, dtype=torch.int32))
    for c, n in enumerate(limits):
        want = select_positions_vectorized(chosen[c : c + 1], n, 7, 16)
        assert torch.equal(got[0][c : c + 1], want[0])
        assert torch.equal(got[1][c : c + 1], want[1])


@pytest.mark.parametrize(
    "length", [torch.ones(2, dtype=torch.int32), torch.ones(3), torch.ones(3, 1).int()], ids=str
)
def test_other_lengths_are_refused(length):
    query, key = make_inputs("integers", 2, 1, 2, 9, 32, torch.float32, 3)
    with pytest.raises(ValueError, match=r"device_length is int32 \[1\] or \[3\]"):
        topk_keys(query, key, 2, device_length=length)
    with pytest.raises(ValueError, match=r"device_length is int32 \[1\] or \[3\]"):
        select_positions(torch.zeros(3, 1, 1, 4).int(), 9, 2, 4, length)


# heads, KV heads, head_dim: 8B's, 1.5B's, one without tensor descriptors, one of plain Triton
@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(32, 8, 128), (12, 2, 128), (8, 2, 96), (4, 4, 64)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("t", [1, 77, 512])
def test_on_a_gpu(shape, dtype, t):
    heads, kv_heads, d = shape
    for kind in KINDS:
        limits = [1, 300, 4097 + t, 9000]
        query, key, length = chunks_of_a_row(
            kind, heads, kv_heads, t, limits, d, dtype, device="cuda"
        )
        for mode in ("exact", "block_max"):
            got = topk_keys(query, key, 4, mode, length)
            assert torch.equal(got, alone(topk_keys, query, key, length, 4, mode)), (kind, mode)
        positions, count = select_positions(got, key.shape[2], 127, 32, length)
        for c, n in enumerate(limits):
            want = select_positions(got[c : c + 1], n, 127, 32)
            assert torch.equal(positions[c : c + 1], want[0])
            assert torch.equal(count[c : c + 1], want[1])
