"""Whether a device has room for the cache that a prompt asks for."""

from __future__ import annotations

import torch

from reattention_eval.errors import DeviceMemoryError
from reattention_eval.machine_memory import GIB, free_bytes


def require_room(device: torch.device, needed: int, rows: int, tokens: int, held: int = 0) -> None:
    """Raise DeviceMemoryError where `rows` rows of `tokens` tokens need more bytes of a device than
    are left, and `held` by what they take the place of."""
    free = free_bytes(device)
    if free is None or needed <= free + held:
        return
    elsewhere = "" if device.type == "cpu" else ', or keep values in host memory (cache="auto")'
    raise DeviceMemoryError(
        f"{rows} x {tokens:,} tokens (prompt and max_new_tokens) need {needed / GIB:,.1f} GiB of "
        f"cache on {device}, where {(free + held) / GIB:,.1f} GiB are free, enough for about "
        f"{tokens * (free + held) // needed:,} tokens: lower max_new_tokens, shorten the prompt"
        f"{elsewhere}."
    )
