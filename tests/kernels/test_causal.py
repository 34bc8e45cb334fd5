"""attend_causal: every form that runs without a GPU against loops in float64."""

from __future__ import annotations

import math

import pytest
import torch

from reattention_kernels.causal import (
    LowerRightMask,
    attend_causal,
    attend_causal_naive,
    choice,
    fa3,
)

pytest.importorskip("triton")
from reattention_kernels.causal.launch import Tile, attend_causal_triton, join_parts
from reattention_kernels.topk_keys.triton import interpreted

pytestmark = pytest.mark.usefixtures("poisoned_memory")
in_the_interpreter = pytest.mark.skipif(not interpreted(), reason="on a GPU test_gpu.py does this")

# batch, heads, KV heads, queries, keys, head_dim: GQA 1, 3, 4, 7, odd lengths, one query, one key,
# a whole prompt, tiles that end anywhere
SHAPES = [
    (1, 2, 2, 33, 100, 32),
    (2, 3, 1, 7, 65, 16),
    (1, 4, 1, 70, 70, 64),
    (2, 7, 1, 1, 19, 24),
    (1, 1, 1, 1, 1, 16),
    (1, 2, 1, 65, 129, 80),
]


def make(batch, heads, kv_heads, t, n, d, dtype=torch.float32, spare=0):
    """Strided parts of wider storages; what lies behind the n keys is NaN."""
    draw = torch.Generator().manual_seed(n + t)
    query = torch.randn(batch, t, heads, d, generator=draw).to(dtype).transpose(1, 2)
    storage = torch.randn(2, batch, kv_heads, n + spare, d, generator=draw).to(dtype)
    storage[:, :, :, n:] = torch.nan
    return query, storage[0], storage[1], d**-0.5


def by_loops(query, key, value, scale, lengths):
    """[B, H, T, D] of float64, one query at a time."""
    out = torch.zeros(query.shape, dtype=torch.float64)
    b, h, t, _ = query.shape
    q, k, v = (x.double() for x in (query, key, value))
    for entry in range(b):
        for head in range(h):
            kv = head // (h // key.shape[1])
            for i in range(t):
                seen = lengths[entry] - t + i + 1
                scores = [float(q[entry, head, i] @ k[entry, kv, j]) * scale for j in range(seen)]
                top = max(scores)
                weights = [math.exp(score - top) for score in scores]
                for j, weight in enumerate(weights):
                    out[entry, head, i] += weight / sum(weights) * v[entry, kv, j]
    return out


def triton_form(query, key, value, scale, lengths=None, out=None, tile=None):
    out = torch.empty_like(query) if out is None else out
    return attend_causal_triton(query, key, value, scale, lengths, out, tile=tile)


FORMS = [attend_causal_naive, attend_causal, pytest.param(triton_form, marks=in_the_interpreter)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_loops(shape, form):
    given = make(*shape)
    want = by_loops(*given, [shape[4]] * shape[0])
    torch.testing.assert_close(form(*given).double(), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_limits_of_each_entry(form):
    """Chunks of one row that share its keys; what lies behind a limit does not count."""
    query, key, value, scale = make(3, 4, 2, 9, 90, 32, spare=10)
    key, value = (x[:1].expand(3, -1, -1, -1) for x in (key, value))
    limits = torch.tensor([9, 64, 90], dtype=torch.int32)
    got = form(query, key, value, scale, limits)
    want = by_loops(query, key, value, scale, limits.tolist())
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)
    for entry in range(3):  # alone, and one limit for all
        one = slice(entry, entry + 1)
        alone = form(query[one], key[one], value[one], scale, limits[one])
        assert torch.equal(alone, got[one])
    same = form(query, key, value, scale, limits[1:2])
    assert torch.equal(same[1], got[1])
    assert not torch.equal(same[2], got[2])


@in_the_interpreter
def test_a_query_has_the_same_bits_in_every_grouping():
    query, key, value, scale = make(1, 2, 1, 96, 200, 32, torch.float16)
    tile = Tile(32, 16, 4, 2)
    whole = triton_form(query, key, value, scale, tile=tile)
    for first, last in ((0, 32), (32, 65), (65, 96)):  # not only at the tiles' ends
        n = 200 - 96 + last
        part = query[:, :, first:last], key[:, :, :n], value[:, :, :n]
        assert torch.equal(triton_form(*part, scale, tile=tile), whole[:, :, first:last])


@pytest.mark.parametrize("form", FORMS[1:])
def test_writes_where_it_is_told(form):
    query, key, value, scale = make(2, 4, 2, 5, 21, 32)
    storage = torch.full((2, 8, 4, 40), 7.0)
    out = storage[:, 1:6, :, 4:36].transpose(1, 2)  # rows of [B, T, H, D], wider on all sides
    got = form(query, key, value, scale, out=out)
    assert got.data_ptr() == out.data_ptr()
    torch.testing.assert_close(out, attend_causal_naive(query, key, value, scale))
    out.fill_(7.0)
    assert bool((storage == 7.0).all())


def test_a_mask_serves_smaller_calls():
    mask = LowerRightMask()
    for t, n in ((9, 40), (4, 50), (1, 3), (9, 9), (12, 51)):
        given = make(1, 2, 1, t, n, 16)
        torch.testing.assert_close(attend_causal(*given, mask=mask), attend_causal_naive(*given))


@in_the_interpreter
def test_parts_joined_by_their_log_sums():
    query, key, value, scale = make(2, 6, 2, 17, 61, 24)
    group = [x.repeat_interleave(3, 1) for x in (key, value)]
    scores = query @ group[0].transpose(2, 3) * scale  # [B, H, T, N]
    hidden = torch.arange(61) > torch.arange(44, 61)[:, None]
    scores = scores.masked_fill(hidden, -torch.inf)
    parts = []
    for part in (slice(0, 44), slice(44, 61)):
        own, sums = scores[..., part], scores[..., part].logsumexp(3, keepdim=True)
        parts.append(((own - sums).exp() @ group[1][:, :, part], sums))
    out = query.new_empty(2, 17, 6, 24).transpose(1, 2)
    torch.testing.assert_close(
        join_parts(*parts, out), attend_causal_naive(query, key, value, scale)
    )
    (a, a_log), (c, c_log) = parts
    far = join_parts((a, a_log - 1000), (c, c_log), out)  # no weight is left, and no NaN
    torch.testing.assert_close(far, c)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(key=torch.zeros(1, 3, 9, 16)), "do not fit"),
        (dict(value=torch.zeros(1, 2, 8, 16)), "do not fit"),
        (dict(query=torch.zeros(1, 4, 10, 16)), "10 queries cannot be the last of 9 keys"),
        (dict(query=torch.zeros(1, 4, 0, 16)), "0 queries"),
        (dict(lengths=torch.tensor([9])), "int64"),
        (dict(lengths=torch.tensor([9, 9], dtype=torch.int32)), r"\[2\], not int32 \[1\] or \[1\]"),
        (dict(out=torch.zeros(1, 4, 3, 16).half()), "float16"),
        (dict(out=torch.zeros(1, 4, 16, 3).transpose(2, 3)), "last stride of 1"),
        (dict(backend="fa3"), "needs a CUDA device"),
    ],
)
def test_what_does_not_fit(change, message):
    given = dict(
        query=torch.zeros(1, 4, 3, 16), key=torch.zeros(1, 2, 9, 16),
        value=torch.zeros(1, 2, 9, 16), scale=1.0,
    )  # fmt: skip
    with pytest.raises(ValueError, match=message):
        attend_causal(**(given | change))


class Fwd:
    """`fwd` of FlashAttention-3's operators, with its checks, in PyTorch."""

    def __init__(self) -> None:
        self.calls: list[dict[str, object]] = []

    def fwd(self, q, k, v, *, out, seqused_k, kv_batch_idx, **settings):
        b, _, h, d = q.shape
        assert settings.pop("is_causal") is True
        self.calls.append(settings)
        for x in (q, k, v, out):
            assert x.stride(3) == 1 and x.data_ptr() % 16 == 0
            assert all(step > 0 and step % 8 == 0 for step in x.stride()[:3]), x.stride()
        assert k.shape[2:] == v.shape[2:] and h % k.shape[2] == 0 and k.shape[3] == d
        assert out.shape == q.shape
        if kv_batch_idx is None:
            assert k.shape[0] == v.shape[0] == b
        else:
            assert kv_batch_idx.dtype == torch.int32 and kv_batch_idx.shape == (b,)
            k, v = k[kv_batch_idx.long()], v[kv_batch_idx.long()]
        if seqused_k is not None:
            assert seqused_k.dtype == torch.int32 and seqused_k.shape == (b,)
            assert seqused_k.is_contiguous()
        assert bool(k.isfinite().all()) and bool(v.isfinite().all())  # multiplied by zero
        given = (x.transpose(1, 2) for x in (q, k, v))
        out.copy_(attend_causal_naive(*given, settings["softmax_scale"], seqused_k).transpose(1, 2))
        return out, None, None, None


@pytest.fixture
def flash3(monkeypatch):
    fake = Fwd()
    monkeypatch.setattr(fa3, "operators", lambda: fake)
    return fake


@pytest.mark.parametrize("limits", [None, [60], [9, 64, 90]], ids=str)
@pytest.mark.parametrize("shared", [False, True])
def test_what_flash_attention_3_is_given(flash3, shared, limits):
    query, key, value, scale = make(3, 4, 2, 9, 90, 32, torch.bfloat16)
    if shared:
        key, value = (x[:1].expand(3, -1, -1, -1) for x in (key, value))
    lengths = None if limits is None else torch.tensor(limits, dtype=torch.int32)
    want = attend_causal_naive(query, key, value, scale, lengths)
    out = torch.empty(3, 9, 4, 32, dtype=torch.bfloat16).transpose(1, 2)
    got = fa3.attend_fa3(query, key, value, scale, lengths, out)
    assert got is out
    assert torch.equal(got, want)
    # the bits of a query must not depend on how many others there are
    assert flash3.calls == [dict(softmax_scale=scale, num_splits=1, pack_gqa=False)]


def test_what_flash_attention_3_cannot_address_is_copied(flash3):
    query, key, value, scale = make(1, 4, 2, 9, 30, 24, torch.bfloat16)
    odd = torch.zeros(1, 2, 30, 27, dtype=torch.bfloat16)
    odd[..., 1:25] = key
    out = torch.zeros(1, 4, 9, 25, dtype=torch.bfloat16)[..., 1:]
    got = fa3.attend_fa3(query, odd[..., 1:25], value, scale, None, out)
    assert torch.equal(got, attend_causal_naive(query, key, value, scale))
    assert got is out


@pytest.fixture
def machine(monkeypatch):
    """A GPU of a capability, with what is installed on it."""

    def make_machine(capability, absent):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
        for name in choice.BACKENDS:
            why = "not here" if name in absent else None
            backend = choice.Backend(
                choice.BACKENDS[name].attend, lambda index, dtype, why=why: why,
                choice.BACKENDS[name].takes, choice.BACKENDS[name].limits,
            )  # fmt: skip
            monkeypatch.setitem(choice.BACKENDS, name, backend)
        choice._order.cache_clear()

    yield make_machine
    choice._order.cache_clear()


class OnDevice:
    dtype = torch.bfloat16

    def __init__(self, t, d):
        self.shape = (1, 4, t, d)

    def get_device(self):
        return 0


@pytest.mark.parametrize(
    ("capability", "absent", "want"),
    [
        ((9, 0), (), "fa3 triton fa3"),
        ((9, 0), ("fa3", "flash-attn"), "triton triton triton"),
        ((9, 0), ("fa3", "flash-attn", "triton"), "torch torch torch"),
        ((8, 0), ("fa3",), "flash-attn triton triton"),
        ((8, 0), ("fa3", "flash-attn"), "torch triton triton"),
        ((10, 0), ("fa3", "flash-attn", "triton"), "torch torch torch"),
    ],
)
def test_what_is_chosen(machine, capability, absent, want):
    """Without limits, with limits, with limits and padded keys; never by the number of queries."""
    machine(capability, absent)
    for t in (1, 2, 512, 8192):
        given = [(False, False), (True, False), (True, True)]
        names = [choice.backend_name(OnDevice(t, 128), *case) for case in given]
        assert " ".join(names) == want
    states = choice.causal_backends()
    assert set(states) == set(choice.BACKENDS)
    assert states[want.split()[0]] == "chosen"
    assert all(states[name] == "not here" for name in absent)


def test_a_backend_that_was_asked_for(machine):
    machine((9, 0), ("flash-attn",))
    assert choice.backend_name(OnDevice(5, 128), asked="cudnn") == "cudnn"
    for asked, reason in (
        ("flash-attn", "not here"),
        ("fa4", "unknown, one of fa3, triton, cudnn, flash-attn, torch"),
    ):
        with pytest.raises(ValueError, match=f"cannot answer by {asked}: {reason}"):
            choice.backend_name(OnDevice(5, 128), asked=asked)
    with pytest.raises(ValueError, match="takes no lengths"):
        choice.backend_name(OnDevice(5, 128), True, asked="cudnn")
    with pytest.raises(ValueError, match="takes padded keys only"):
        choice.backend_name(OnDevice(5, 128), True, asked="fa3")
    assert choice.backend_name(OnDevice(5, 100)) == "triton"  # a head_dim FA3 does not take


def test_a_machine_without_flash_attention_3(monkeypatch, tmp_path):
    fa3.operators.cache_clear()
    assert "pip install" in fa3.operators()
    package = tmp_path / "fa3_fwd"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "_C.py").write_text("raise ImportError('undefined symbol: aoti_torch')")
    monkeypatch.syspath_prepend(tmp_path)
    fa3.operators.cache_clear()
    try:
        assert "does not load beside torch" in fa3.operators()
        assert "aoti_torch" in fa3.operators()
    finally:
        fa3.operators.cache_clear()
