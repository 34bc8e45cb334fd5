"""On a GPU: values in pinned host memory, read by kernels and in graphs, the bits of the device."""

from __future__ import annotations

import gc
import warnings
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from small_tiers import leave_room_for_keys, make_tiers_small
from tiny_models import random_prompt, tiny_model

from reattention_eval import FullAttention, ReAttention, StreamingLLM, attach
from reattention_eval.cache import HostTier, LayerCache
from reattention_eval.cache.host_tier import Traffic

pytestmark = pytest.mark.gpu

METHODS = [
    ReAttention(4, 128, 8, 3, 9, chunk_size=64),
    ReAttention(4, 128, 8, 3, 9, chunk_size=64, score="qkv_l1"),
    StreamingLLM(sink_size=4, window_size=200, chunk_size=64),
    FullAttention(chunk_size=64),
]
# a KV head of many query heads: its decode step is a chunk to the kernels
SHAPES = [dict(heads=6, kv_heads=2, head_dim=64), dict(heads=20, kv_heads=1, head_dim=128)]


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    make_tiers_small(monkeypatch, group=256, window=64, block=1 << 16, leave=7)


def model_of(shape, dtype=torch.bfloat16, **settings):
    options = dict(layers=3, window=8192, initializer_range=0.03, dtype=dtype)
    return tiny_model(**options | settings, **shape).to("cuda")


def conversation(model, method, cache, folder):
    ids, turn = random_prompt(1500).cuda(), random_prompt(90, seed=4).cuda()
    with attach(model, method, cache=cache) as session:
        found = [session.prefill(ids, max_new_tokens=200)]
        found += [session.generate(max_new_tokens=60), session.extend(turn, max_new_tokens=99)]
        found.append(session.generate(max_new_tokens=40))
        graphs = session._repeats.graphs
        session.save(folder / cache)
        found.append(session.generate(torch.cat((ids[:, :700], turn), 1), 30))
        assert session.stats.reused_tokens
        found.append(session.load(folder / cache, max_new_tokens=9))
        found.append(session.generate(max_new_tokens=9))
        mask = torch.ones(2, 1500, dtype=torch.int64)
        mask[1, :400] = 0
        both = torch.cat((ids, ids.roll(77, 1)))
        found.append(session.generate(both, 12, attention_mask=mask))
        stats = session.stats
    return [x.cpu() for x in found], stats, graphs


@pytest.mark.parametrize("cache", ["values_on_host", "host"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.name}-{getattr(m, 'score', '')}")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_same_bits(method, shape, cache, tmp_path):
    model = model_of(shape)
    want, plain, graphs = conversation(model, method, "device", tmp_path)
    found, stats, of_host = conversation(model, method, cache, tmp_path)
    assert all(torch.equal(one, other) for one, other in zip(found, want, strict=True))
    assert stats.mean_view == plain.mean_view
    assert stats.cache_host_bytes and stats.bytes_from_host and stats.bytes_to_host
    if method.name == "streaming_llm" or getattr(method, "score", "") == "qk":
        assert graphs and (of_host or cache == "host")  # steps are captured in both
    if getattr(method, "score", "") == "qk":
        assert 0.05 < stats.value_hits < 1


@pytest.mark.parametrize("away", [1, 2, 4])
def test_the_same_bits_with_the_keys_of_some_layers(away, tmp_path, monkeypatch):
    model = model_of(SHAPES[0], layers=5)
    want, *_ = conversation(model, METHODS[0], "device", tmp_path)
    leave_room_for_keys(monkeypatch, away)
    found, stats, graphs = conversation(model, METHODS[0], "auto", tmp_path)
    assert all(torch.equal(one, other) for one, other in zip(found, want, strict=True))
    assert stats.cache_host_bytes and stats.bytes_from_host and not graphs


def make_late(monkeypatch, slow):
    """What goes on one of the streams begins long behind what is launched after it."""
    beside = Traffic.beside

    @contextmanager
    def late(self, stream):
        with beside(self, stream) as entered:
            if stream is getattr(self, slow):
                torch.cuda._sleep(1_000_000)  # clocks: 0.6 ms
            yield entered

    monkeypatch.setattr(Traffic, "beside", late)


# views of 132 to 204 keys, which no kernel rotates
LONGROPE = dict(
    rope_type="longrope", short_factor=[1.0] * 32, long_factor=[2.0] * 32, factor=4.0,
    original_max_position_embeddings=150,
)  # fmt: skip


@pytest.mark.parametrize("slow", ["fetching", "streaming", "leaving"])
@pytest.mark.parametrize(
    "settings", [{}, dict(window=150, rope_scaling=LONGROPE)], ids=["by-kernels", "no-kernel"]
)
def test_the_same_bits_where_a_stream_is_late(settings, slow, tmp_path, monkeypatch):
    """Nothing else waits by luck: what is on its way keeps its memory, and is awaited."""
    model = model_of(SHAPES[0], **settings)
    method = replace(METHODS[0], allow_beyond_window=True)
    want, *_ = conversation(model, method, "device", tmp_path)
    make_late(monkeypatch, slow)
    leave_room_for_keys(monkeypatch, 2)
    for cache in ("values_on_host", "host", "auto"):
        found, *_ = conversation(model, method, cache, tmp_path)
        assert all(torch.equal(one, other) for one, other in zip(found, want, strict=True)), cache


@pytest.mark.parametrize("keys_too", [False, True])
def test_room_that_grows_while_tokens_leave(keys_too, monkeypatch):
    """Blocks are added beside the stream that makes more room for their addresses."""
    make_late(monkeypatch, "leaving")
    tier = HostTier(3, 8, group_tokens=12, window=40, block_tokens=4)
    host, device = LayerCache(tier=tier), LayerCache()
    host.place_keys(keys_too)
    generator = torch.Generator().manual_seed(0)
    for cache in (host, device):
        cache.reserve(1, 240)  # 60 blocks, and room for 64 addresses
    for n in range(12, 400, 12):
        key, value = (torch.randn(2, 12, 64, generator=generator).cuda() for _ in range(2))
        for cache in (host, device):
            cache.append(0, key, value)
        torch.zeros(64, dtype=torch.int64, device="cuda").fill_(-1)  # takes what is given back
        if n < 60:
            continue
        far = torch.arange(3, n - 40, max(1, n // 8), dtype=torch.int32, device="cuda")[None]
        view = far, torch.full((1,), far.shape[1], dtype=torch.int32, device="cuda"), 0, 12
        found, want = (cache.row(0).gather_view(*view) for cache in (host, device))
        assert all(map(torch.equal, found, want)), n


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_pageable_memory_is_said_and_has_the_same_bits(dtype, tmp_path, monkeypatch):
    model, real = model_of(SHAPES[0], dtype), torch.empty

    def refuse(*shape, pin_memory=False, **options):
        if pin_memory:
            raise RuntimeError("CUDA error: out of memory")
        return real(*shape, **options)

    want, *_ = conversation(model, METHODS[0], "device", tmp_path)
    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.warns(RuntimeWarning, match=r"cannot be pinned .* GB/s"):
        found, *_ = conversation(model, METHODS[0], "values_on_host", tmp_path)
    assert all(torch.equal(one, other) for one, other in zip(found, want, strict=True))


def test_all_is_given_back_after_an_exception():
    model = model_of(SHAPES[0])
    ids = random_prompt(3000).cuda()

    def fail():
        with attach(model, METHODS[0], cache="values_on_host") as session:
            session.generate(ids, 20)
            assert session.stats.cache_host_bytes
            raise ValueError("in the middle")

    held = []
    for _ in range(3):  # what libraries keep is there behind the first
        with pytest.raises(ValueError, match="in the middle"):
            fail()
        gc.collect()
        torch.cuda.synchronize()
        pinned = torch.cuda.host_memory_stats().get("allocated_bytes.current", 0)
        held.append((torch.cuda.memory_allocated(), pinned))
    assert held[2] == held[1]
    assert held[2][0] <= held[0][0]


def test_no_step_waits_for_the_host():
    """But the ones that read a token to choose the next."""
    model = model_of(SHAPES[0])
    model.generation_config.eos_token_id = None
    with attach(model, METHODS[0], cache="values_on_host") as session:
        session.prefill(random_prompt(1500).cuda(), max_new_tokens=99)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            session.generate(max_new_tokens=30)  # a graph that cannot be made is said
        assert session._repeats.graphs
