"""Values in host memory: the bits of a cache on the device, whatever comes and goes.

On a CPU the two places are two storages; the window of values at hand is made small, so that most
of what is attended has left it.
"""

from __future__ import annotations

import json

import pytest
import torch
from repeats import repeat_without_gpu
from small_tiers import leave_room_for_keys, make_tiers_small
from tiny_models import random_prompt, tiny_model

from reattention_eval import FullAttention, ReAttention, StreamingLLM, attach
from reattention_eval.cache import HostTier, LayerCache
from reattention_eval.methods import build_method

FIRST, WINDOW, BLOCK = 3, 20, 8


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    make_tiers_small(monkeypatch)


def tier():
    return HostTier(FIRST, 8, group_tokens=6, window=WINDOW, block_tokens=BLOCK)


def check_rows(host, device, generator):
    for row, length in enumerate(device.lengths):
        one, other = host.row(row), device.row(row)
        assert torch.equal(one.key, other.key)
        assert torch.equal(one.value, other.value)
        if not length:
            continue
        for shape in ((5,), (2, 7)):
            at = torch.randint(length, shape, generator=generator)
            assert all(map(torch.equal, one.gather(at), other.gather(at)))
        start = length // 3
        assert all(map(torch.equal, one.between(start, length), other.between(start, length)))
        local = min(4, length)
        middle = length - local - 2
        if middle < 1:
            continue
        chosen = torch.randperm(middle, generator=generator)[:6].sort().values.int()
        spans = torch.full((1, 8), -1, dtype=torch.int32)
        spans[0, : len(chosen)] = chosen
        view = spans, torch.tensor([len(chosen)], dtype=torch.int32), 2, local
        assert all(map(torch.equal, one.gather_view(*view), other.gather_view(*view)))


@pytest.mark.parametrize("keys_too", [False, True])
@pytest.mark.parametrize("capacity", [0, pytest.param(15, marks=pytest.mark.slow), 90])
def test_what_comes_and_goes_is_what_caches_on_the_device_hold(capacity, keys_too):
    """Three layers, in the order of forwards, over rows that come, grow and are cut."""
    generator = torch.Generator().manual_seed(capacity)
    shared = tier()
    pairs = [(LayerCache(i, tier=shared), LayerCache(i)) for i in range(3)]
    for host, _ in pairs:
        host.place_keys(keys_too)
    for storm in range(3):
        rows = 2 if storm else 1
        for pair in pairs:
            for cache in pair:
                cache.reserve(rows, capacity)
        for step in range(12):
            row = int(torch.randint(rows, (), generator=generator))
            tokens = (1, 1, 1, 2, 5, 31)[int(torch.randint(6, (), generator=generator))]
            for host, device in pairs:
                key, value = (torch.randn(2, tokens, 4, generator=generator) for _ in range(2))
                for cache in (host, device):
                    cache.append(row, key, value)
                check_rows(host, device, generator)
            if step % 5 == 4:
                back = [int(n * torch.rand((), generator=generator)) for n in device.lengths]
                for pair in pairs:
                    for cache in pair:
                        cache.rewind(back)
                check_rows(*pairs[step % 3], generator)
    on_host, on_device = (sum(pair[i].nbytes for pair in pairs) for i in range(2))
    assert all(host.host_bytes > 0 and device.host_bytes == 0 for host, device in pairs)
    assert on_host < on_device
    for host, _ in pairs:
        host.clear()
    assert not any(host.nbytes or host.host_bytes for host, _ in pairs)
    assert shared.memory.free_bytes


def test_first_tokens_stay_where_a_row_began_with_fewer():
    """Views are fetched, not all values brought, also of a cache that was made for a few tokens."""
    shared, generator = tier(), torch.Generator().manual_seed(0)
    host, device = LayerCache(tier=shared), LayerCache()
    for cache in (host, device):
        cache.reserve(1, 1)
    for tokens in (1, 1, *[6] * 12):
        key, value = (torch.randn(2, tokens, 4, generator=generator) for _ in range(2))
        for cache in (host, device):
            cache.append(0, key, value)
        check_rows(host, device, generator)
    assert shared.transferred().asked


def test_rows_that_are_written_together():
    host, device = LayerCache(tier=tier()), LayerCache()
    for cache in (host, device):
        cache.reserve(3, 70)
    draw = torch.Generator().manual_seed(1)
    for tokens in (30, 1, 9, 30):
        key, value = (torch.randn(6, tokens, 4, generator=draw) for _ in range(2))
        held = [cache.append(0, key, value, 3) for cache in (host, device)]
        assert torch.equal(held[0].value, held[1].value)
    check_rows(host, device, draw)


def test_a_window_that_is_made_larger_holds_for_storage_that_is_made_then():
    shared = tier()
    host, device = LayerCache(tier=shared), LayerCache()
    draw = torch.Generator().manual_seed(2)
    for step in range(6):
        for cache in (host, device):
            if step % 3 == 0:
                cache.reserve(1, 50)
            cache.reserve_more(50 + 40 * step)
        shared.keep(1000 * (step % 3))
        key, value = (torch.randn(2, 48, 4, generator=draw) for _ in range(2))
        for cache in (host, device):
            cache.append(0, key, value)
        check_rows(host, device, draw)


METHODS = [
    ReAttention(global_size=2, local_size=12, span_size=4, max_spans=4, top_k=3, chunk_size=6),
    ReAttention(2, 12, 4, 3, 4, chunk_size=6, score="qkv_l2", select_from="local"),
    StreamingLLM(sink_size=2, window_size=20, chunk_size=6),
    FullAttention(chunk_size=6),
    build_method(dict(type="quest", budget_tokens=16, page_size=4, chunk_size=6, dense_layers=1)),
    build_method(dict(type="infllm", budget_tokens=24, global_size=2, local_size=8, block_size=4,
                      chunk_size=6)),
    build_method(dict(type="self_extend", window_size=8, group_size=4, chunk_size=6)),
    ReAttention(2, 12, 4, 3, 4, chunk_size=6, per_kv_head=True, votes="mass", layer_slope=0.5),
]  # fmt: skip


def conversation(model, method, cache, tmp_path):
    """All that a session does, over prompts of several lengths."""
    ids = random_prompt(150)
    batch, mask = random_prompt(61, rows=3, seed=3), torch.ones(3, 61, dtype=torch.int64)
    for row, padding in enumerate((0, 37, 21)):
        batch[row, :padding] = mask[row, :padding] = 0
    with attach(model, method, cache=cache) as session:
        found = [session.prefill(ids), session.generate(max_new_tokens=9)]
        found.append(session.extend(random_prompt(23, seed=7)))
        found.append(session.generate(max_new_tokens=5))
        found.append(torch.tensor(session.answer_nll([5, 9, 7])))
        if method.name != "infllm":
            session.save(tmp_path / cache)
        shared = torch.cat((ids[:, :100], random_prompt(40, seed=8)), 1)
        found.append(session.generate(shared, 7))
        reused = session.stats.reused_tokens
        if method.name != "infllm":
            found.append(session.load(tmp_path / cache, max_new_tokens=4))
            found.append(session.generate(max_new_tokens=4))
        found.append(session.generate(batch, 6, attention_mask=mask))
        found.append(model.generate(ids, max_new_tokens=6, do_sample=False))
        stats = session.stats
        session.check_selected()
    return found, stats, reused, session


def _cases():
    for i, method in enumerate(METHODS):
        for cache in ("values_on_host", "host"):
            usual = i == 0
            words = f"{i}-{method.name}-{cache}"
            yield pytest.param(method, cache, marks=[] if usual else pytest.mark.slow, id=words)


@pytest.mark.parametrize(("method", "cache"), [*_cases()])
def test_a_session_has_the_same_bits(method, cache, tmp_path):
    model = tiny_model(layers=3)
    want, plain, *_ = conversation(model, method, "device", tmp_path)
    found, stats, reused, session = conversation(model, method, cache, tmp_path)
    assert all(torch.equal(one, other) for one, other in zip(found, want, strict=True))
    assert stats.layer_steps_selected == plain.layer_steps_selected
    assert stats.mean_view == plain.mean_view
    assert reused == 96 or method.name != "reattention"
    assert stats.cache_host_bytes > 0 and stats.bytes_to_host > 0 and stats.bytes_from_host > 0
    assert plain.cache_host_bytes == plain.bytes_to_host == plain.bytes_from_host == 0
    if method.name == "reattention" and method.fetched_keys is not None:
        assert 0 < stats.value_hits < 1
    if method.name != "infllm":  # what one saves, the other loads
        kept = (
            json.loads((tmp_path / at / "session.json").read_text()) for at in ("device", cache)
        )
        assert next(kept)["files"] == next(kept)["files"]
    # outside of the block nothing is held, and the counters are what they were
    assert session.stats == stats
    assert not any(layer.nbytes or layer.host_bytes for layer in session._hook.layers)


@pytest.mark.parametrize("tokens", [90, 257, 1537])  # room is made for 90, 260 and 1,568
def test_auto_keeps_all_where_it_fits(tokens):
    ids, turn, found = random_prompt(tokens), random_prompt(300, seed=4), []
    for cache in ("auto", "device"):
        with attach(tiny_model(), METHODS[0], cache=cache) as session:
            found += [session.prefill(ids), session.extend(turn), session.generate(ids[:, :40], 5)]
            assert session.stats.cache_host_bytes == 0
    assert all(torch.equal(one, other) for one, other in zip(found[:3], found[3:], strict=True))


@pytest.mark.parametrize("away", [1, 3, 5])
def test_auto_has_the_same_bits_with_the_keys_of_some_layers(away, tmp_path, monkeypatch):
    model = tiny_model(layers=5)
    want, *_ = conversation(model, METHODS[0], "device", tmp_path)
    leave_room_for_keys(monkeypatch, away)
    found, stats, reused, session = conversation(model, METHODS[0], "auto", tmp_path)
    assert all(torch.equal(one, other) for one, other in zip(found, want, strict=True))
    assert reused == 96 and stats.bytes_from_host > 0
    assert sum(layer.keys_on_host for layer in session._hook.layers) == away


def test_repeated_steps_have_the_same_bits(monkeypatch):
    """What a CUDA graph does: places, lengths and halves are read from the device."""
    model, ids = tiny_model(layers=2), random_prompt(150)

    def steps(cache):
        with attach(model, METHODS[0], cache=cache) as session:
            found = [session.prefill(ids, max_new_tokens=90)]
            found += [session.decode(torch.tensor([[token]])) for token in range(3, 24)]
            found.append(torch.tensor(session.answer_nll([5, 9, 7])))
            found.append(session.extend(random_prompt(17, seed=2), max_new_tokens=30))
            found += [session.decode(torch.tensor([[token]])) for token in range(3, 9)]
            return found, session.stats

    want, plain = steps("device")
    with monkeypatch.context() as patch:
        repeated = repeat_without_gpu(patch)
        found, stats = steps("values_on_host")
        assert repeated
        others, _ = steps("host")
    for got in (found, others):
        assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))
    assert stats.layer_steps == plain.layer_steps
    assert 0.05 < stats.value_hits < 1
