"""Where the bytes of a cache may live, and how many of them lie where."""

from __future__ import annotations

from typing import NamedTuple

DEVICE, VALUES_ON_HOST, HOST = "device", "values_on_host", "host"
TIERS = (DEVICE, VALUES_ON_HOST, HOST)
AUTO = "auto"  # the first of them that fits

GROUP_TOKENS = 8192  # of a row, appended at once while a method chooses its views
BLOCK_BYTES = 8 << 20  # of host memory, taken and pinned at once: a power of two
LEAST_WINDOW = 4096


class CacheShape(NamedTuple):
    """What a device holds of a model: its layers, and KV heads of head_dim elements in each."""

    layers: int
    kv_heads: int
    head_dim: int
    itemsize: int = 2


class TierBytes(NamedTuple):
    """Of a whole cache: on the device, and in host memory."""

    device: int
    host: int


def window_tokens(budget: int | None) -> int:
    """Tokens whose values stay on the device for a method that attends to at most `budget` of them
    (None: to all): a view's first and last, and those that are appended at once."""
    return GROUP_TOKENS + max(LEAST_WINDOW, budget or 0)


def group_tokens() -> int:
    """Tokens of a row that are appended at most at once, where views are chosen."""
    return GROUP_TOKENS


def block_tokens(token_bytes: int) -> int:
    """Tokens of a block of host memory: a power of two, so that a block is one too."""
    return max(1, 1 << ((BLOCK_BYTES // token_bytes).bit_length() - 1))


def tier_bytes(
    shape: CacheShape,
    tokens: int,
    tier: str = DEVICE,
    budget: int | None = None,
    rows: int = 1,
    first: int = 0,
    chosen: int | None = None,
) -> TierBytes:
    """What `rows` rows of `tokens` tokens take in a tier.

    Args:
        budget: keys that the method attends to at most; None for all.
        first: of them, a row's first tokens.
        chosen: of them, neither first nor last; None where it may be all.

    Raises:
        ValueError: no such tier.
    """
    if tier not in TIERS:
        raise ValueError(f"unknown tier {tier!r}; there are: {', '.join(TIERS)}.")
    token = shape.kv_heads * shape.head_dim * shape.itemsize  # key or value, of a layer
    layers, window = rows * shape.layers, first + window_tokens(budget)
    if tier == DEVICE or tokens <= window:
        return TierBytes(2 * layers * tokens * token, 0)
    block = block_tokens(token)
    host = layers * -(-tokens // block) * block * token
    # the window; the last view's values twice, and where each token's are among them
    width = (budget or 0) if chosen is None else chosen
    device = layers * (window * token + 2 * width * (token + 4) + (4 * tokens if width else 0))
    if tier == VALUES_ON_HOST:
        return TierBytes(device + layers * tokens * token, host)
    # keys of two layers at a time: the one at work and the next
    return TierBytes(device + min(2, shape.layers) * rows * tokens * token, 2 * host)
