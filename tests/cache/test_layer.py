"""What goes in comes out, per row, without moving what is stored."""

from __future__ import annotations

import pytest
import torch

from reattention_eval.cache import (
    HostTier,
    LayerCache,
    device_room,
    require_device,
    rounded_capacity,
)
from reattention_eval.cache.layer import GROWTH_TOKENS
from reattention_eval.errors import DeviceMemoryError


def chunk(tokens, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, tokens, 4, generator=generator) for _ in range(2))


@pytest.mark.parametrize("capacity", [0, 5, 64])
def test_rows_of_different_length(capacity):
    cache = LayerCache()
    cache.reserve(2, capacity)
    parts: dict[int, list] = {0: [], 1: []}
    for seed, (row, tokens) in enumerate([(0, 3), (1, 5), (0, 1), (0, 7), (1, 2)]):
        key, value = chunk(tokens, seed)
        parts[row].append((key, value))
        held = cache.append(row, key, value)
        assert torch.equal(held.key, torch.cat([k for k, _ in parts[row]], 1))
        assert torch.equal(held.value, torch.cat([v for _, v in parts[row]], 1))
        assert held.length == cache.lengths[row]
    assert cache.lengths == [11, 7]
    assert torch.equal(cache.row(1).key, torch.cat([k for k, _ in parts[1]], 1))


def test_known_capacity_is_written_in_place():
    cache = LayerCache()
    cache.reserve(1, 20)
    first = cache.append(0, *chunk(4)).key.data_ptr()
    assert cache.append(0, *chunk(16)).key.data_ptr() == first
    assert cache.nbytes == 2 * 2 * 20 * 4 * 4
    cache.reserve(1, 12)
    assert cache.append(0, *chunk(4)).key.data_ptr() == first  # storage that fits is kept


def test_unknown_capacity_grows_by_a_fixed_step():
    cache = LayerCache()
    cache.reserve(1, 0)
    cache.append(0, *chunk(4))
    cache.append(0, *chunk(1))
    assert cache.nbytes == 2 * 2 * rounded_capacity(5 + GROWTH_TOKENS) * 4 * 4


def test_gather_and_rewind():
    cache = LayerCache()
    cache.reserve(1, 10)
    key, value = chunk(10)
    row = cache.append(0, key, value)
    positions = torch.tensor([0, 3, 9])
    assert torch.equal(row.gather(positions)[0], key[:, positions])
    assert torch.equal(row.gather(positions)[1], value[:, positions])
    cache.rewind([4])
    assert torch.equal(cache.row(0).key, key[:, :4])
    with pytest.raises(ValueError, match="holds 4 tokens and cannot go back to 5"):
        cache.rewind([5])


def test_room_is_rounded_up_a_little():
    """Known figures, and what is promised of all."""
    known = {0: 0, 1: 1, 63: 63, 65: 66, 4101: 4224, 16_385: 16_896, 131_073: 132_096}
    assert {tokens: rounded_capacity(tokens) for tokens in known} == known
    for tokens in range(1, 40_000, 7):
        more = rounded_capacity(tokens) - tokens
        assert 0 <= more <= min(tokens / 32, 1023)
        assert rounded_capacity(rounded_capacity(tokens)) == rounded_capacity(tokens)


def test_prompts_of_nearly_one_length_share_their_storage():
    cache = LayerCache()
    places = set()
    for tokens in (2_017, 2_040, 2_001, 2_048):
        cache.reserve(1, tokens)
        places.add(cache.append(0, *chunk(tokens)).key.data_ptr())
    assert len(places) == cache.moves == 1


def test_more_than_a_device_has_is_said_before_it_is_taken(monkeypatch):
    """Two layers of 2 x 8 doubles, keys and values: 512 bytes a token."""
    layers = [LayerCache(i, to_come=2 - i) for i in range(2)]
    monkeypatch.setattr(device_room, "free_bytes", lambda device: 512 * 100)
    key = torch.ones(2, 3, 8, dtype=torch.float64)

    def read(tokens):
        require_device(layers, 1, tokens)
        for layer in layers:
            layer.reserve(1, tokens)
        for layer in layers:
            layer.append(0, key, key)

    for tokens in (10**18, 2**70, 128):
        with pytest.raises(DeviceMemoryError, match=rf"1 x {tokens:,} tokens .* about 100 tokens"):
            read(tokens)
        assert not any(layer.nbytes for layer in layers)
    read(50)
    with pytest.raises(DeviceMemoryError, match="about 150 tokens"):  # and what is held
        read(10**18)
    assert [layer.lengths for layer in layers] == [[3], [3]]
    read(100)


def test_keys_at_hand_are_counted_once_for_all_layers_of_a_device(monkeypatch):
    """In host memory: 8 layers, 128 bytes a token each, for which two have room on the device."""
    tier = HostTier(0, 8, window=10)
    layers = [LayerCache(i, tier=tier) for i in range(8)]
    key = torch.ones(2, 1, 8, dtype=torch.float64)
    for layer in layers:
        layer.place_keys(True)
        layer.reserve(1, 1)
        layer.append(0, key, key)
    window = sum(layer.device_bytes_of(1, 1000) for layer in layers)
    held = sum(layer.nbytes for layer in layers)
    monkeypatch.setattr(device_room, "free_bytes", lambda device: window - held + 2 * 128 * 1008)
    require_device(layers, 1, 1000)  # 1,008 are made
    with pytest.raises(DeviceMemoryError):
        require_device(layers, 1, 1010)
    for layer in layers:
        layer.reserve(1, 1000)
    assert window + 2 * 128 * 1008 == sum(layer.nbytes for layer in layers)
