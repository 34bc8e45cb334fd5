"""Values that are partly in host memory, brought by position: both forms against all of them."""

from __future__ import annotations

import pytest
import torch

from reattention_kernels.values import HeldValues, SplitValues, fetch_values

FORMS, interpreted = [fetch_values], None
try:
    from reattention_kernels.topk_keys.triton import interpreted
    from reattention_kernels.values.triton import fetch_values_triton

    if interpreted():
        FORMS.append(fetch_values_triton)
except ImportError:
    pass

by_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
pytestmark = pytest.mark.usefixtures("poisoned_memory")

BLOCK, FIRST, ROOM = 16, 3, 40
# KV heads, head_dim, dtype: rows that are no power of two, one head
SHAPES = [(2, 32, torch.float32), (3, 10, torch.float16), (1, 24, torch.float32)]


def split(tokens, heads, dim, dtype):
    """All values [Hkv, n, D], and the same in two places: the ones that are elsewhere are NaN."""
    draw = torch.Generator().manual_seed(tokens)
    value = torch.randn(heads, tokens, dim, generator=draw).to(dtype)
    value[..., 0] = -0.0
    recent = torch.full((heads, ROOM, dim), torch.nan, dtype=dtype)
    for p in range(tokens):
        recent[:, p if p < FIRST else FIRST + (p - FIRST) % (ROOM - FIRST)] = value[:, p]
    behind = tokens - (ROOM - FIRST)
    host = torch.full((-(-tokens // BLOCK) * BLOCK, heads, dim), torch.nan, dtype=dtype)
    host[FIRST:behind] = value[:, FIRST:behind].transpose(0, 1)
    blocks = [part.clone() for part in host.split(BLOCK)]
    addresses = torch.tensor([block.data_ptr() for block in blocks])
    return value, SplitValues(recent, FIRST, tokens, blocks, addresses)


def same_bits(got, want):
    kind = torch.int16 if got.element_size() == 2 else torch.int32
    return torch.equal(got.contiguous().view(kind), want.contiguous().view(kind))


@by_form
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_positions(form, shape):
    value, source = split(113, *shape)
    heads, _, dim = value.shape
    for width in (1, 7, 113):
        draw = torch.Generator().manual_seed(width)
        for groups in {1, heads}:
            at = torch.stack([torch.randperm(113, generator=draw)[:width] for _ in range(groups)])
            out = value.new_full((width, heads, dim), torch.nan)
            form(source, at, out)
            want = value.gather(1, at.expand(heads, -1)[..., None].expand(-1, -1, dim))
            assert same_bits(out.transpose(0, 1), want)


@by_form
def test_tokens_that_only_the_device_counts(form):
    value, source = split(90, *SHAPES[0])
    at, count = torch.arange(0, 90, 3)[None].int(), torch.tensor([21], dtype=torch.int32)
    out = value.new_full((30, 2, 32), torch.nan)
    written = torch.tensor([90], dtype=torch.int32)
    form(source._replace(written=written), at, out, count, 2)
    assert same_bits(out[:21].transpose(0, 1), value[:, 2 : 2 + 63 : 3])
    assert out[21:].isnan().all()


@by_form
@pytest.mark.parametrize("repeated", [False, True])
def test_what_the_last_call_brought_is_not_read_again(form, repeated):
    """Host memory is poisoned behind the first call: what it brought comes from there no more."""
    value, source = split(200, *SHAPES[0])
    width, old, new = 24, torch.arange(40, 58), torch.arange(50, 66)
    positions = torch.full((2, width), -1, dtype=torch.int32)
    values = torch.full((2, width, 2, 32), torch.nan)
    slots, counts = torch.randint(-9, 99, (200,), dtype=torch.int32), torch.zeros(3).long()

    def call(at, turn):
        spans = torch.full((1, width), -1, dtype=torch.int32)
        spans[0, : len(at)] = at - 5
        count = torch.tensor([len(at)], dtype=torch.int32)
        if repeated:
            held = HeldValues(
                positions, values, positions, slots, counts, torch.tensor([turn], dtype=torch.int32)
            )
            form(source, spans, values, count, 5, held)
        else:
            i, before = turn % 2, 1 - turn % 2
            held = HeldValues(positions[before], values[before], positions[i], slots, counts)
            form(source, spans, values[i], count, 5, held)
        assert same_bits(values[turn % 2, : len(at)].transpose(0, 1), value[:, at])
        assert positions[turn % 2].tolist() == [*at.tolist(), *[-1] * (width - len(at))]

    call(old, 7)
    assert counts.tolist() == [18, 0, 18]
    for p in old.tolist():
        source.blocks[p // BLOCK][p % BLOCK] = torch.nan
    call(new, 8)
    assert counts.tolist() == [34, 8, 26]
    call(torch.tensor([1, 55, 180, 199]), 9)  # on the device anyway: first, held, recent
    assert counts.tolist() == [38, 9, 26]


@by_form
@pytest.mark.parametrize("programs", [None, 2, 7])
def test_several_views_at_once(form, programs):
    """Each finds what the last call brought, and leaves nothing: of odd numbers, one of them 0."""
    value, source = split(150, *SHAPES[0])
    width, old = 21, torch.arange(40, 57)
    old_positions = torch.full((width,), -1, dtype=torch.int32)
    old_positions[:17] = old.int()
    old_values = torch.full((width, 2, 32), torch.nan)
    old_values[:17] = value[:, old].transpose(0, 1)
    slots, counts = torch.zeros(150, dtype=torch.int32), torch.zeros(3).long()
    slots[old] = torch.arange(17, dtype=torch.int32)
    for p in old.tolist():
        source.blocks[p // BLOCK][p % BLOCK] = torch.nan
    chosen = [torch.arange(45, 66), torch.arange(0), torch.tensor([2, 3, 50, 100, 112, 149])]
    spans = torch.full((3, 1, width), -1, dtype=torch.int32)
    for i, some in enumerate(chosen):
        spans[i, 0, : len(some)] = some - 2
    count, before = torch.tensor([21, 0, 6], dtype=torch.int32), slots.clone()
    out = value.new_full((3, width, 2, 32), torch.nan)
    held = HeldValues(old_positions, old_values, None, slots, counts)
    form(source, spans, out, count, 2, held, programs)
    for some, found in zip(chosen, out, strict=True):
        assert same_bits(found[: len(some)].transpose(0, 1), value[:, some])
        assert found[len(some) :].isnan().all()
    # recent are 113 on and the first three
    assert counts.tolist() == [27, 12 + 1, 9 + 3] and torch.equal(slots, before)


@by_form
def test_several_views_of_heads_their_own(form):
    value, source = split(113, *SHAPES[1])
    draw = torch.Generator().manual_seed(5)
    at = torch.stack([torch.randperm(113, generator=draw)[:9] for _ in range(6)]).view(2, 3, 9)
    out = value.new_full((2, 9, 3, 10), torch.nan)
    form(source, at, out)
    for positions, found in zip(at, out, strict=True):
        want = value.gather(1, positions[..., None].expand(-1, -1, 10))
        assert same_bits(found.transpose(0, 1), want)


VIEWS = [
    # batch, heads, KV heads, queries, cache, head_dim, global, local, widest selection
    (2, 4, 2, 1, 300, 64, 4, 64, 96), (2, 6, 2, 33, 200, 32, 8, 40, 50),
    (1, 7, 1, 1, 500, 128, 0, 32, 64), (1, 3, 1, 9, 180, 16, 2, 33, 0),
    (1, 20, 1, 1, 151, 16, 2, 33, 40),
]  # fmt: skip


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize("shape", VIEWS, ids=str)
@pytest.mark.parametrize("halves", [False, True])
def test_views_of_values_in_two_places_have_the_same_bits(shape, halves):
    if interpreted is None:
        pytest.importorskip("triton")
    from test_triton_view import make_view

    from reattention_kernels.view import ViewValues, attend_view
    from reattention_kernels.view.launch import attend_view_triton

    if shape[-1] == 0:
        query, key, value, view, scale = make_view(*shape[:-1], 9, torch.float32)
        view = view._replace(positions=view.positions[:, :0], counts=torch.zeros_like(view.counts))
    else:
        query, key, value, view, scale = make_view(*shape, torch.float32)
    batch, _, kv_heads, _, n, d, first, local, width = shape
    if halves and (batch > 1 or shape[3] > 1):
        batch = 1
        query, key, value = query[:1, :, :1], key[:1], value[:1]
        view = view._replace(positions=view.positions[:1], counts=view.counts[:1])
    kept, room = first + 3, first + 3 + local + 5
    recent = torch.full((batch, kv_heads, room, d), torch.nan)
    for p in [*range(kept), *range(max(kept, n - (room - kept)), n)]:
        recent[:, :, p if p < kept else kept + (p - kept) % (room - kept)] = value[:, :, p]
    chosen = torch.full((2 if halves else batch, kv_heads, width, d), torch.nan)
    for b in range(batch):
        some = view.positions[b, : int(view.counts[b])].long() + first
        chosen[n % 2 if halves else b, :, : len(some)] = value[b][:, some]
    parts = ViewValues(recent, kept, chosen, halves)
    length = torch.tensor([n], dtype=torch.int32)
    for form in (attend_view, attend_view_triton):
        want = form(query, key, value, view, scale, length)
        assert torch.equal(form(query, key, parts, view, scale, length), want)
