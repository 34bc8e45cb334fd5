"""Where keys and values of a prompt go, and whether there is room, before any of it is taken."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import torch

from reattention_eval.cache.device_room import require_room
from reattention_eval.cache.host_keys import SLOTS
from reattention_eval.cache.host_memory import require_host_room
from reattention_eval.cache.host_tier import HostTier
from reattention_eval.cache.layer import LayerCache
from reattention_eval.cache.rounding import rounded_capacity
from reattention_eval.cache.tiers import AUTO, HOST
from reattention_eval.machine_memory import free_bytes

SHARE_FOR_CACHE = 0.9  # of a device's free memory; forwards take the rest


def place(tier: HostTier, layers: Sequence[LayerCache], rows: int, capacity: int) -> None:
    """Choose for `rows` rows of `capacity` tokens, which are going to be reserved.

    "auto" keeps all on the devices if they have room, then all keys, then the keys of as many
    layers as it can.

    Raises:
        HostMemoryError: too little host memory; nothing has been taken of it.
    """
    room = rounded_capacity(capacity)  # as layers round it
    own = [layer for layer in layers if layer.on_tier]
    chosen = own if tier.name == HOST else []
    if tier.name == AUTO:
        tier.keep(room)
        if not _fits(tier, layers, rows, room, ()):
            tier.keep(0)
            chosen = next(
                (some for some in map(_spread(own), range(len(own)))
                 if _fits(tier, layers, rows, room, some)), own,
            )  # fmt: skip
    for layer in own:
        layer.place_keys(layer in chosen)
    require_host(tier, layers, rows, capacity)


def place_more(tier: HostTier, layers: Sequence[LayerCache], rows: int, capacity: int) -> None:
    """Choose for what `rows` rows are going to grow to: "auto" goes on keeping all on the devices
    where it has so far and they have room.

    Raises:
        HostMemoryError: as `place`.
    """
    more, before = rounded_capacity(capacity), tier.window
    if tier.name == AUTO and not any(layer.values_leave for layer in layers):
        tier.keep(max(more, before))
        if not _fits(tier, layers, rows, more, ()):
            tier.keep(before)
    require_host(tier, layers, rows, capacity)


def require_host(tier: HostTier, layers: Sequence[LayerCache], rows: int, capacity: int) -> None:
    """Raise HostMemoryError where `rows` rows of `capacity` tokens need more host memory than is
    left, beside what the layers hold. What a CPU has of its own, the device here, is of the same
    memory."""
    needed = sum(layer.host_bytes_of(rows, capacity) for layer in layers)
    held = sum(layer.host_bytes for layer in layers) + tier.memory.free_bytes
    if needed <= held:
        return
    own = [layer for layer in layers if layer.device is not None and layer.device.type == "cpu"]
    of_device, there = _on_device(own, rows, capacity), sum(layer.nbytes for layer in own)
    needed, held = needed + of_device, held + min(of_device, there)
    require_host_room(needed * tier.processes, held * tier.processes, rows, capacity, tier.name)


def require_device(layers: Sequence[LayerCache], rows: int, capacity: int) -> None:
    """Raise DeviceMemoryError where `rows` rows of `capacity` tokens need more of a device than is
    left, beside what the layers hold. Layers that have seen no keys yet ask by themselves then."""
    for device in {layer.device for layer in layers if layer.device is not None}:
        own = [layer for layer in layers if layer.device == device]
        needed = _on_device(own, rows, capacity)
        require_room(device, needed, rows, capacity, sum(layer.nbytes for layer in own))


def _on_device(layers: Sequence[LayerCache], rows: int, capacity: int) -> int:
    """Bytes of their device."""
    own = sum(layer.device_bytes_of(rows, capacity) for layer in layers)
    return own + _at_hand(layers, rows, rounded_capacity(capacity))


def _at_hand(layers: Iterable[LayerCache], rows: int, capacity: int) -> int:
    """Bytes of a device for keys that are in host memory: its layers share them."""
    keys = (layer.bytes_of(rows, capacity) // 2 for layer in layers if layer.keys_on_host)
    return SLOTS * max(keys, default=0)


def _spread(layers: Sequence[LayerCache]) -> Callable[[int], list[LayerCache]]:
    """So many of the layers, as far from each other as can be: keys come while others compute."""
    n = len(layers)
    return lambda m: [x for i, x in enumerate(layers) if i * m // n != (i + 1) * m // n]


def _fits(
    tier: HostTier,
    layers: Sequence[LayerCache],
    rows: int,
    capacity: int,
    on_host: Collection[LayerCache],
) -> bool:
    """Whether the layers' devices have room, with the keys of some in host memory, and what the
    layers hold given back. Other devices than GPUs have."""
    needed: dict[torch.device, int] = {}
    staged: dict[torch.device, int] = {}
    at_hand = min(capacity, tier.window) + (2 * (tier.budget or 0) if capacity > tier.window else 0)
    for layer in layers:
        if layer.device is None or layer.device.type != "cuda":
            continue
        key = layer.bytes_of(rows, capacity) // 2
        value = layer.bytes_of(rows, at_hand) // 2 if layer.on_tier else key
        if layer in on_host:
            staged[layer.device] = SLOTS * key
            key = 0
        needed[layer.device] = needed.get(layer.device, 0) + key + value - layer.nbytes
    return all(
        more + staged.get(device, 0) <= SHARE_FOR_CACHE * (free_bytes(device) or 0)
        for device, more in needed.items()
    )
