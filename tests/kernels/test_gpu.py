"""The compiled kernels on a CUDA device: `pytest -m gpu`, after the bench's own checks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernels.triton_cases import KINDS, make_inputs

from reattention_kernels import select_positions, topk_keys
from reattention_kernels.causal import (
    BACKENDS,
    attend_causal,
    attend_causal_naive,
    causal_backends,
)
from reattention_kernels.topk_keys import topk_keys_blockwise, topk_keys_naive
from reattention_kernels.view import (
    SelectedView,
    attend_view,
    attend_view_naive,
    attend_whole,
)
from reattention_kernels.votes import select_positions_vectorized

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("poisoned_memory")]

# heads, KV heads, head_dim, k: compiled once each; lengths, strides and batches vary below
COMPILED = [
    (8, 2, 128, 4), (4, 4, 64, 4), (7, 1, 64, 1), (6, 2, 32, 3), (8, 2, 96, 8), (4, 1, 256, 4),
    (3, 1, 128, 16), (28, 4, 128, 4),
]  # fmt: skip
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
LENGTHS_EACH = 50
# so many scores at most: the naive form sorts them all, and needs 30 bytes for each
NAIVE_SCORES = 10**8


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", COMPILED, ids=str)
def test_integers_bit_for_bit(shape, dtype):
    heads, kv_heads, d, k = shape
    draw = torch.Generator().manual_seed(heads * d + k)
    for trial in range(LENGTHS_EACH):
        t = int(torch.randint(1, (2, 20, 400)[trial % 3], (1,), generator=draw))
        n = int(torch.randint(1, (20, 3000, 20_000)[trial % 3], (1,), generator=draw))
        t = min(t, max(1, NAIVE_SCORES // (heads * n * 2)))
        mode = "block_max" if trial % 10 == 9 else "exact"
        sizes = (heads, kv_heads, t, n, d)
        inputs = make_inputs(KINDS[trial % 3], *sizes, dtype, 1 + trial % 2, "cuda", seed=trial)
        got, want = topk_keys(*inputs, k, mode), topk_keys_naive(*inputs, k, mode)
        assert torch.equal(got, want), (t, n, mode, KINDS[trial % 3])
        assert torch.equal(got, topk_keys(*inputs, k, mode))


@pytest.mark.parametrize("k", [1, 3, 4, 8, 16])
@pytest.mark.parametrize("d", [64, 128])
def test_both_forms_of_rescoring_find_the_same(d, k):
    from reattention_kernels.topk_keys import triton

    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("the form in Gluon is for Hopper")
    for kind, t, n in (("integers", 300, 9001), ("repeated", 77, 40_000), ("normal", 129, 70)):
        query, key = make_inputs(kind, 8, 2, t, n, d, torch.bfloat16, 2, "cuda", seed=k)
        tile = triton.choose_tile(4 * t, key, "exact")
        assert tile.gluon
        limit = torch.tensor([n, n // 2], dtype=torch.int32, device="cuda")
        blocks = triton.best_blocks(query, key, k, tile, limit)
        found = [torch.empty(2, 8, t, k, dtype=torch.int32, device="cuda") for _ in range(2)]
        triton.rescore(query, key, blocks, found[0], tile, limit)
        triton.rescore(query, key, blocks, found[1], replace(tile, gluon=False), limit)
        assert torch.equal(*found)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", COMPILED, ids=str)
def test_equal_keys_at_random_places(shape, dtype):
    """Real values, which every order of additions rounds in its own way: a tile, the tile that the
    keys end in, a split and both passes must still round equal keys alike."""
    heads, kv_heads, d, k = shape
    draw = torch.Generator("cuda").manual_seed(heads * d + k)
    for trial in range(15):
        t, n = ((1, 5000), (300, 3000), (40, 20_000))[trial % 3]
        n += trial
        few = torch.randn(
            1, kv_heads, 1 + n // (10, 200)[trial % 2], d, generator=draw, device="cuda"
        )
        kind = torch.randint(0, few.shape[2], (n,), generator=draw, device="cuda")
        query = torch.randn(1, heads, t, d, generator=draw, device="cuda").to(dtype)
        few = few.to(dtype)
        winners = topk_keys(query, few[:, :, kind], k).long()
        firsts = first_places(kind, few.shape[2], k)  # [kinds, k]
        # where a key stands among its equals, and among the winners equal to it before it
        won = kind[winners]
        earlier = (won[..., :, None] == won[..., None, :]).tril(-1).sum(-1)
        assert torch.equal(winners, firsts[won, earlier]), (t, n)
        scores = torch.einsum(
            "bgrd,bgnd->bgrn", query.double().reshape(1, kv_heads, -1, d), few.double()
        ).reshape(1, heads, t, -1)
        times = torch.bincount(kind, minlength=few.shape[2]).clamp(max=k)
        best = scores.repeat_interleave(times, -1).topk(k).values
        found = scores.gather(-1, won)
        torch.testing.assert_close(found, best, rtol=0, atol=1e-4 * d**0.5)


def first_places(kind: torch.Tensor, kinds: int, k: int) -> torch.Tensor:
    """The k lowest positions of every kind of key, -1 where there are fewer: int64 [kinds, k]."""
    found = torch.full((kinds, k), -1, dtype=torch.int64)
    for one in range(kinds):
        places = (kind == one).nonzero()[:k, 0].cpu()
        found[one, : len(places)] = places
    return found.to(kind.device)


def test_offsets_past_two_to_the_31():
    n = 4_300_000  # x 4 heads x 128 channels: 2.2e9 elements
    query = torch.randn(1, 8, 3, 128, device="cuda").bfloat16()
    key = torch.randn(1, 4, n, 128, device="cuda", dtype=torch.bfloat16)
    value = torch.randn_like(key)
    step = query[:, :, -1:]
    near = attend_whole(step[:, 6:], key[:, 3:].clone(), value[:, 3:].clone(), 0.1)  # offsets
    torch.testing.assert_close(attend_whole(step, key, value, 0.1)[:, 6:], near)
    for position, scale in ((n - 1, 9.0), (n - 7, 8.0), (5, 7.0), (n // 2, 6.0)):
        key[0, :, position] = scale * query[0, ::2, 0]
    winners = topk_keys(query, key, 4)
    assert (winners[0, ::2, 0] == torch.tensor([n - 1, n - 7, 5, n // 2], device="cuda")).all()
    assert torch.equal(winners[0, 7], topk_keys_blockwise(query[:, 7:], key[:, 3:], 4)[0, 0])


def test_votes_equal_the_reference():
    draw = torch.Generator("cuda").manual_seed(0)
    for trial in range(200):
        n = int(torch.randint(1, 200_000, (1,), generator=draw, device="cuda"))
        total = (16, 128, 256, 65_536)[trial % 4]
        spread = torch.randn(1 + trial % 2, 1, total // 4, 4, generator=draw, device="cuda").abs()
        chosen = (spread * n * (0.001, 0.1, 1.0)[trial % 3]).int().clamp(max=n - 1)
        chosen[spread < 0.1] = -1
        spans = (127, 256)[trial // 4 % 2]
        got = select_positions(chosen, n, spans, 32)
        want = select_positions_vectorized(chosen, n, spans, 32)
        assert torch.equal(got[0], want[0])
        assert torch.equal(got[1], want[1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("t", [1, 4, 300])
def test_view_attention(t, dtype):
    draw = torch.Generator("cuda").manual_seed(t)
    query, key, value = (
        torch.randn(2, h, m, 128, generator=draw, device="cuda").to(dtype)
        for h, m in ((8, t), (2, 20_000), (2, 20_000))
    )
    positions = torch.full((2, 4064), -1, dtype=torch.int32, device="cuda")
    for b in range(2):
        chosen = torch.randperm(15_000, generator=draw, device="cuda")[: 900 + b]
        positions[b, : 900 + b] = chosen.sort().values.int()
    count = torch.tensor([900, 901], dtype=torch.int32, device="cuda")
    angle = torch.randn(8192, 128, generator=draw, device="cuda")
    view = SelectedView(positions, count, angle.cos(), angle.sin(), 32, 4096)
    given = (query, key, value, view, 0.05)
    got, want = attend_view(*given).float(), attend_view_naive(*given).float()
    assert (got - want).norm() <= (1e-5 if dtype == torch.float32 else 1e-2) * want.norm()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", COMPILED, ids=str)
def test_a_decode_step_over_the_whole_cache(shape, dtype):
    heads, kv_heads, d, _ = shape
    draw = torch.Generator().manual_seed(heads * d)
    for trial in range(12):
        room = int(torch.randint(1, (70, 2000, 40_000)[trial % 3], (1,), generator=draw))
        n = int(torch.randint(1, room + 1, (1,), generator=draw))
        held = torch.tensor([n], dtype=torch.int32, device="cuda")
        batch, t = 1 + trial % 2, min(n, 1 + trial // 2 % 2)
        query, key = make_inputs("normal", heads, kv_heads, t, room, d, dtype, batch, "cuda", trial)
        value = torch.randn_like(key)
        got = attend_whole(query, key, value, d**-0.5, held)
        exact = (x.double() for x in (query, key[:, :, :n], value[:, :, :n]))
        want = attend_causal_naive(*exact, d**-0.5)
        assert (got - want).norm() <= (1e-5 if dtype == torch.float32 else 1e-2) * want.norm()
        if n == room:
            continue
        cut = key[:, :, :n], value[:, :, :n]
        assert torch.equal(got, attend_whole(query, *cut, d**-0.5)), n


@pytest.mark.parametrize("t", [1, 512])
def test_a_layer_step_never_waits_for_the_host(t):
    from reattention_kernels.bench.steps import made_layer

    torch.use_deterministic_algorithms(False)  # poisoning memory waits
    layer = made_layer("random", 20_000, t)
    layer.step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        layer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def attentions(dtype):
    """Those of this machine."""
    states = causal_backends(0, dtype)
    return [name for name, state in states.items() if state in ("here", "chosen")]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(8, 2, 128), (3, 1, 128), (7, 1, 64), (4, 4, 96)], ids=str)
def test_full_attention(shape, dtype):
    heads, kv_heads, d = shape
    for t, n in ((512, 1000), (300, 300), (130, 4101), (17, 64)):
        query, key = make_inputs("normal", heads, kv_heads, t, n, d, dtype, 2, "cuda", seed=n)
        value = torch.randn_like(key)
        want = attend_causal_naive(query.float(), key.float(), value.float(), d**-0.5)
        for name in attentions(dtype):
            if not BACKENDS[name].takes(query):
                continue
            out = query.new_empty(2, t, heads, d).transpose(1, 2)
            got = attend_causal(query, key, value, d**-0.5, out=out, backend=name)
            assert got is out
            assert (got - want).norm() <= 1e-2 * want.norm(), (name, t, n)


def test_full_attention_has_the_same_bits_in_every_grouping():
    query, key = make_inputs("normal", 8, 2, 1024, 5000, 128, torch.bfloat16, 1, "cuda")
    value = torch.randn_like(key)
    chosen = [name for name, state in causal_backends().items() if state == "chosen"]
    for name in {*chosen, "triton"} & {"fa3", "triton"}:
        whole = attend_causal(query, key, value, 0.1, backend=name)
        for size in (512, 333):
            for first in range(0, 1024, size):
                last = min(first + size, 1024)
                n = 5000 - 1024 + last
                part = query[:, :, first:last], key[:, :, :n], value[:, :, :n]
                assert torch.equal(
                    attend_causal(*part, 0.1, backend=name), whole[:, :, first:last]
                ), (name, first)


@pytest.mark.parametrize("t", [512, 1], ids=["chunk", "step"])
def test_chunks_of_one_row_have_the_bits_that_each_has_alone(t):
    query, key = make_inputs("normal", 8, 2, 3 * t, 20_000, 128, torch.bfloat16, 1, "cuda")
    query = query.view(8, 3, t, 128).transpose(0, 1)
    key, value = (x.expand(3, -1, -1, -1) for x in (key, torch.randn_like(key)))
    lengths = 20_000 - t * torch.tensor([2, 1, 0], dtype=torch.int32, device="cuda")
    positions = torch.arange(4064, dtype=torch.int32, device="cuda") * 3
    counts = torch.tensor([4064, 1000, 0], dtype=torch.int32, device="cuda")
    angle = torch.randn(8192, 128, device="cuda")
    view = SelectedView(positions.repeat(3, 1), counts, angle.cos(), angle.sin(), 32, 4096)
    got = attend_view(query, key, value, view, 0.05, lengths)
    want = attend_view_naive(query, key, value, view, 0.05, lengths)
    assert (got.float() - want.float()).norm() <= 1e-2 * want.float().norm()
    for b in range(3):
        one = slice(b, b + 1)
        own = view._replace(positions=view.positions[one], counts=counts[one])
        cut = key[one, :, : int(lengths[b])], value[one, :, : int(lengths[b])]
        assert torch.equal(attend_view(query[one], *cut, own, 0.05)[0], got[b])
