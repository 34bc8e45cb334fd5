"""Whether what a prompt needs is there, before any of it is taken."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from reattention_eval.cache.host_memory import require_host_memory
from reattention_eval.cache.host_tier import HostTier
from reattention_eval.cache.layer import LayerCache

SHARE_FOR_CACHE = 0.9  # of a device's free memory; forwards take the rest


def require_host(tier: HostTier, layers: Sequence[LayerCache], rows: int, capacity: int) -> None:
    """Raise ConfigError where `rows` rows of `capacity` tokens need more host memory than is left,
    beside what the layers hold."""
    needed = sum(layer.host_bytes_of(rows, capacity) for layer in layers)
    more = needed - sum(layer.host_bytes for layer in layers) - tier.memory.free_bytes
    if more > 0:
        require_host_memory(more)


def fits_devices(layers: Sequence[LayerCache], rows: int, capacity: int) -> bool:
    """Whether the layers' devices have room for keys and values of so much, what the layers hold
    given back."""
    needed: dict[torch.device, int] = {}
    for layer in layers:
        if layer.device is not None and layer.device.type == "cuda":
            more = layer.bytes_of(rows, capacity) - layer.nbytes
            needed[layer.device] = needed.get(layer.device, 0) + more
    return all(more <= SHARE_FOR_CACHE * _free(device) for device, more in needed.items())


def _free(device: torch.device) -> int:
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused
