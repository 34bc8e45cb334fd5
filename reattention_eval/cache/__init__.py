"""Where the keys and values of a layer live, and what methods keep beside them."""

from reattention_eval.cache.block_memory import BlockFactory, BlockMemory
from reattention_eval.cache.capacity import place, place_more, require_device
from reattention_eval.cache.host_tier import HostTier, Transferred
from reattention_eval.cache.layer import LayerCache, RepeatedStep
from reattention_eval.cache.page_bounds import PageBounds, PageBoundsFactory
from reattention_eval.cache.recent_votes import RecentVotes, RecentVotesFactory
from reattention_eval.cache.rounding import rounded_capacity
from reattention_eval.cache.row_cache import RowCache
from reattention_eval.cache.row_state import RowState
from reattention_eval.cache.tiers import (
    AUTO,
    DEVICE,
    TIERS,
    VALUES_ON_HOST,
    CacheShape,
    TierBytes,
    tier_bytes,
)
from reattention_eval.cache.values import FetchedValues

__all__ = [
    "AUTO",
    "DEVICE",
    "TIERS",
    "VALUES_ON_HOST",
    "BlockFactory",
    "BlockMemory",
    "CacheShape",
    "FetchedValues",
    "HostTier",
    "LayerCache",
    "PageBounds",
    "PageBoundsFactory",
    "RecentVotes",
    "RecentVotesFactory",
    "RepeatedStep",
    "RowCache",
    "RowState",
    "TierBytes",
    "Transferred",
    "place",
    "place_more",
    "require_device",
    "rounded_capacity",
    "tier_bytes",
]
