"""Whether a cell can fit at all, by arithmetic, before minutes are spent on it."""

from __future__ import annotations

import torch
from torch import Tensor

from reattention_eval.cache import AUTO, CacheShape, tier_bytes
from reattention_eval.cache.host_memory import SPARE_BYTES
from reattention_eval.cache.tiers import HOST, TierBytes
from reattention_eval.efficiency.e2e.forms import Form
from reattention_eval.efficiency.plan import kept_values
from reattention_eval.efficiency.shape import ModelShape
from reattention_eval.errors import ConfigError
from reattention_eval.machine_memory import GIB


def least_bytes(
    form: Form, tokens: int, shape: ModelShape, weights: int, itemsize: int
) -> TierBytes:
    """On the device and in host memory, that no implementation of transformers' decoder does
    without. weights: bytes of them on the device."""
    method = form.method
    held = CacheShape(shape.layers, shape.kv_heads, shape.head_dim, itemsize)
    first, keys = kept_values(method)
    tier = HOST if form.cache == AUTO else form.cache
    cache = tier_bytes(held, tokens, tier, keys, 1, first, 0)
    # of a whole prompt: gate, up and their product, the residual stream and its norm
    mlp = (3 * shape.intermediate + 2 * shape.hidden) * tokens * itemsize if form.whole else 0
    return TierBytes(weights + cache.device + mlp, 0 if form.cache == AUTO else cache.host)


def held_back(device: torch.device, memory: int) -> Tensor:
    """What of a GPU is beyond `memory` bytes, taken, so that all else finds a smaller one.

    Raises:
        ConfigError: no GPU, or a smaller one.
    """
    if device.type != "cuda":
        raise ConfigError(f"there is no GPU memory to hold back on {device}; leave it out.")
    total = torch.cuda.mem_get_info(device)[1]
    if memory > total:
        raise ConfigError(
            f"this GPU has {total / GIB:.1f} GiB, less than {memory / GIB:.1f}; give less."
        )
    return torch.empty(total - memory, dtype=torch.uint8, device=device)


def why_not(needs: TierBytes, device: int | None, host: int | None) -> str | None:
    """The reason where that much is not there; None for a memory that is not known."""
    if device is not None and needs.device > device:
        return f"needs more than {needs.device / GIB:.1f} GiB of {device / GIB:.1f}, by arithmetic"
    if host is not None and needs.host and needs.host > host - SPARE_BYTES:
        return (
            f"needs {needs.host / GIB:.1f} GiB of host memory and {host / GIB:.1f} are left, by "
            "arithmetic"
        )
    return None
