"""Keys and values in host memory while every copy is late: the bits of a cache on the device."""

from __future__ import annotations

import pytest
import torch
from late_streams import Stream, make_streams_late, run_all
from repeats import repeat_without_gpu
from small_tiers import leave_room_for_keys, make_tiers_small
from tiny_models import longrope, random_prompt, tiny_model

from reattention_eval import ReAttention, attach
from reattention_eval.attention import fused_view_attention, view_answers
from reattention_eval.cache import HostTier, LayerCache
from reattention_eval.engine.forward_size import ForwardSize

METHOD = ReAttention(4, 16, 4, 3, 6, chunk_size=8, allow_beyond_window=True)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """As on a GPU: chunks in several calls, values fetched beside, steps that are repeated."""
    repeat_without_gpu(monkeypatch)
    monkeypatch.setattr(fused_view_attention, "FLASH_DTYPES", (torch.float64,))
    monkeypatch.setattr(fused_view_attention, "use_triton", lambda tensor: True)
    monkeypatch.setattr(ForwardSize, "choose", lambda self, rows: 64)
    monkeypatch.setattr(view_answers, "FETCHED_MEANWHILE", 0)
    make_tiers_small(monkeypatch, group=32)


def conversation(cache, **settings):
    model = tiny_model(heads=3, kv_heads=1, layers=5, **settings)
    ids, turn = random_prompt(200), random_prompt(60, seed=4)
    with attach(model, METHOD, cache=cache) as session:
        # room is made for more than 64 blocks of 8 tokens, while the prompt's last ones leave
        found = [session.prefill(ids), session.extend(turn, max_new_tokens=300)]
        found += [session.decode(torch.tensor([[token]])) for token in range(5, 20)]
        found.append(session.prefill(torch.cat((ids[:, :90], turn), 1), max_new_tokens=9))
        found.append(session.generate(ids.roll(7, 1).repeat(2, 1)[:, :130], 4))
        return found


# views of 20 to 44 keys: with factors that change between, no kernel rotates them
@pytest.mark.parametrize(
    "settings", [{}, dict(window=40, rope_scaling=longrope(40))], ids=["by-kernels", "no-kernel"]
)
@pytest.mark.parametrize("cache", ["values_on_host", "host", "auto-1", "auto-2", "auto-3"])
def test_the_same_bits(cache, settings, monkeypatch):
    want = conversation("device", **settings)
    cache, _, away = cache.partition("-")
    leave_room_for_keys(monkeypatch, int(away or 0))
    make_streams_late(monkeypatch)
    found = conversation(cache, **settings)
    assert all(torch.equal(one, other) for one, other in zip(found, want, strict=True))
    assert len(Stream.all_of_them) == 3
    run_all()


def test_room_for_keys_that_a_load_has_waited_for(monkeypatch):
    """Their values stay on the device, so that nothing else waits until they are in host memory."""
    make_streams_late(monkeypatch)
    tier = HostTier(0, 8, window=1000, block_tokens=1)
    pairs = [(LayerCache(i, tier=tier), LayerCache(i)) for i in range(3)]
    for host, device in pairs:
        host.place_keys(True)
        host.reserve(1, 60)
        device.reserve(1, 60)
    for room in (60, 200):  # addresses are made for 64 blocks
        for pair in pairs:
            for cache in pair:
                cache.reserve_more(room)
        for host, device in pairs:
            key = torch.randn(2, 30, 4)
            found, want = (cache.append(0, key, key) for cache in (host, device))
            assert torch.equal(found.key, want.key)
    run_all()
