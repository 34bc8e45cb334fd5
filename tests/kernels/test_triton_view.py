"""The Triton forms of attend_view and attend_whole, in the interpreter, against naive ones."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from reattention_kernels.causal import attend_causal_naive
from reattention_kernels.view import (
    SelectedView,
    attend_view,
    attend_view_naive,
    attend_whole,
    takes_whole,
)

pytest.importorskip("triton")
from reattention_kernels.topk_keys.triton import interpreted
from reattention_kernels.view.launch import attend_view_triton, attend_whole_triton

pytestmark = [
    pytest.mark.skipif(not interpreted(), reason="on a GPU test_gpu.py does this"),
    pytest.mark.usefixtures("poisoned_memory", "few_programs"),
]

# batch, heads, KV heads, queries, cache, head_dim, global, local, widest selection
SHAPES = [
    (2, 4, 2, 1, 300, 64, 4, 64, 96),
    (1, 4, 2, 40, 300, 64, 4, 64, 96),
    (1, 7, 1, 1, 500, 128, 0, 32, 64),
    (2, 6, 2, 33, 200, 32, 8, 40, 50),
    (1, 4, 1, 4, 300, 96, 4, 64, 96),
]


def make_view(batch, heads, kv_heads, t, n, d, first, last, width, dtype):
    draw = torch.Generator().manual_seed(n + t)
    query, key, value = (
        torch.randn(batch, h, m, d, generator=draw).to(dtype)
        for h, m in ((heads, t), (kv_heads, n), (kv_heads, n))
    )
    middle = n - first - last
    positions = torch.full((batch, width), -1, dtype=torch.int32)
    count = torch.randint(1, min(width, middle), (batch,), generator=draw).int()
    for b, c in enumerate(count.tolist()):
        positions[b, :c] = torch.randperm(middle, generator=draw)[:c].sort().values.int()
    angle = torch.outer(torch.arange(first + width + last), 100.0 ** (-torch.arange(0, d, 2) / d))
    angle = torch.cat((angle, angle), 1)
    view = SelectedView(positions, count, angle.cos(), angle.sin(), first, last)
    return query, key, value, view, d**-0.5


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 3e-3)], ids=["f32", "f16"]
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_naive_form(shape, dtype, tolerance):
    view = make_view(*shape, dtype)
    got, want = attend_view_triton(*view).float(), attend_view_naive(*view).float()
    assert (got - want).norm() <= tolerance * want.norm()


@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
def test_an_empty_selection(shape):
    *tensors, view, scale = make_view(*shape, torch.float32)
    view = view._replace(counts=torch.zeros_like(view.counts))
    for positions in (view.positions, view.positions[:, :0]):  # as of a method that never selects
        given = (*tensors, view._replace(positions=positions), scale)
        torch.testing.assert_close(attend_view_triton(*given), attend_view_naive(*given))


# batch, heads, KV heads, queries, cache, head_dim: GQA 1, 3, 4, 7, odd lengths, fewer keys than
# programs, one key
WHOLE = [
    (1, 4, 4, 1, 3001, 64),
    (2, 6, 2, 1, 333, 96),
    (1, 8, 2, 4, 1000, 128),
    (1, 7, 1, 2, 65, 32),
    (1, 4, 1, 1, 1, 16),
    (1, 2, 2, 5, 5, 80),
    (1, 2, 1, 3, 140, 256),
]


def make_whole(batch, heads, kv_heads, t, n, d, dtype):
    """The cache is part of a storage with more room and more rows."""
    draw = torch.Generator().manual_seed(n + t)
    query = torch.randn(batch, heads, t, d, generator=draw).to(dtype)
    storage = torch.randn(2, batch, kv_heads, n + 9, d, generator=draw).to(dtype)
    return query, storage[0, :, :, :n], storage[1, :, :, :n], d**-0.5


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 3e-3)], ids=["f32", "f16"]
)
@pytest.mark.parametrize("shape", WHOLE, ids=str)
def test_the_whole_cache_equals_float64(shape, dtype, tolerance):
    inputs = make_whole(*shape, dtype)
    assert takes_whole(*inputs[:2])
    got = attend_whole_triton(*inputs)
    want = attend_causal_naive(*(x.double() for x in inputs[:3]), inputs[3])
    assert (got - want).norm() <= tolerance * want.norm()
    q, k, v = (x.double() for x in inputs[:3])
    mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
    peer = scaled_dot_product_attention(q, k, v, mask, scale=inputs[3], enable_gqa=True)
    torch.testing.assert_close(want, peer, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("few_programs", [False], indirect=True, ids=["as_on_a_gpu"])
def test_more_programs_than_tiles_of_keys():
    view = make_view(*SHAPES[2], torch.float16)
    got, want = attend_view_triton(*view).float(), attend_view_naive(*view).float()
    assert (got - want).norm() <= 3e-3 * want.norm()
    whole = make_whole(*WHOLE[3], torch.float16)
    got = attend_whole_triton(*whole)
    want = attend_causal_naive(*(x.double() for x in whole[:3]), whole[3])
    assert (got - want).norm() <= 3e-3 * want.norm()


@pytest.mark.parametrize("form", [attend_whole_triton, attend_whole])
@pytest.mark.parametrize("held", [1, 3, 64, 65, 399])
def test_the_whole_cache_up_to_a_length_of_the_device(form, held):
    query, key, value, scale = make_whole(1, 6, 2, 1, 400, 32, torch.float32)
    got = form(query, key, value, scale, torch.tensor([held], dtype=torch.int32))
    want = attend_causal_naive(query, key[:, :, :held], value[:, :, :held], scale)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_what_attends_to_the_whole_cache_elsewhere():
    def shape(heads, kv_heads, t, d):
        return torch.empty(1, heads, t, d), torch.empty(1, kv_heads, 9, d)

    assert takes_whole(*shape(28, 4, 2, 128))
    assert not takes_whole(*shape(28, 4, 3, 128))  # more rows than a program takes
    assert not takes_whole(*shape(2, 2, 1, 8))
    assert not takes_whole(*shape(2, 2, 1, 33))


@pytest.mark.parametrize(("heads", "kv_heads", "t"), [(3, 1, 1), (8, 2, 2), (7, 1, 1)])
def test_one_half_of_the_tables_is_enough_where_both_are_alike(heads, kv_heads, t):
    query, key, value, view, scale = make_view(
        2, heads, kv_heads, t, 150, 32, 4, 64, 40, torch.float32
    )
    cos, sin = (torch.cat((x[:, :16], x[:, :16]), 1) for x in (view.cos, view.sin))
    want = attend_view_triton(query, key, value, view._replace(cos=cos, sin=sin), scale)
    other = cos.clone()
    other[:, 16:] = torch.nan  # is not read
    got = attend_view_triton(
        query, key, value, view._replace(cos=other, sin=sin, alike=True), scale
    )
    assert torch.equal(got, want)


CHUNK, ROW = 33, 260  # tokens of a chunk, and of the row whose chunks share its keys
ENTRIES = [
    (attend_view_triton, 2, 2, CHUNK), (attend_view_triton, 3, 1, CHUNK),
    (attend_view_triton, 8, 2, CHUNK), (attend_view_triton, 7, 1, CHUNK),
    (attend_view_triton, 3, 1, 2), (attend_view_triton, 8, 2, 1), (attend_view, 3, 1, CHUNK),
]  # fmt: skip


@pytest.mark.parametrize(("form", "heads", "kv_heads", "t"), ENTRIES)
def test_chunks_of_one_row_are_entries(form, heads, kv_heads, t):
    """Each with its own length of the same keys; written where the model wants it; the same bits
    alone."""
    shape = (3, heads, kv_heads, t, ROW, 32, 4, 64, 40)
    query, key, value, view, scale = make_view(*shape, torch.float32)
    key, value = (x[:1].expand(3, -1, -1, -1) for x in (key, value))
    lengths = torch.tensor([ROW - 2 * CHUNK, ROW - CHUNK, ROW], dtype=torch.int32)
    view = view._replace(counts=torch.tensor([0, 17, 40], dtype=torch.int32))
    view.positions.copy_(torch.arange(40) * 3 + torch.arange(3)[:, None])
    out = torch.empty(3, t, heads, 48)[..., :32].transpose(1, 2)
    got = form(query, key, value, view, scale, lengths, out)
    assert got.data_ptr() == out.data_ptr()
    for b, n in enumerate(lengths.tolist()):
        one = slice(b, b + 1)
        own = view._replace(positions=view.positions[one], counts=view.counts[one])
        alone = form(query[one], key[:1], value[:1], own, scale, lengths[one])
        assert torch.equal(alone[0], got[b])
        cut = key[:1, :, :n], value[:1, :, :n]
        assert torch.equal(form(query[one], *cut, own, scale)[0], got[b])
        want = attend_view_naive(query[one], *cut, own, scale)[0]
        torch.testing.assert_close(got[b], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", [attend_whole_triton, attend_whole])
def test_the_whole_cache_up_to_a_length_each(form):
    query, key, value, scale = make_whole(3, 6, 2, 2, 150, 32, torch.float32)
    lengths = torch.tensor([2, 65, 150], dtype=torch.int32)
    out = torch.empty(3, 2, 6, 32).transpose(1, 2)
    got = form(query, key, value, scale, lengths, out)
    assert got.data_ptr() == out.data_ptr()
    torch.testing.assert_close(
        got, attend_causal_naive(query, key, value, scale, lengths), rtol=1e-5, atol=1e-6
    )
