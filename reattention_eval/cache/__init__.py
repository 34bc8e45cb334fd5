"""Where the keys and values of a layer live, and what methods keep beside them."""

from reattention_eval.cache.block_memory import BlockFactory, BlockMemory
from reattention_eval.cache.layer import LayerCache, RepeatedStep, RowCache
from reattention_eval.cache.page_bounds import PageBounds, PageBoundsFactory
from reattention_eval.cache.row_state import RowState
from reattention_eval.cache.tiers import TIERS, CacheShape, TierBytes, tier_bytes

__all__ = [
    "TIERS",
    "BlockFactory",
    "BlockMemory",
    "CacheShape",
    "LayerCache",
    "PageBounds",
    "PageBoundsFactory",
    "RepeatedStep",
    "RowCache",
    "RowState",
    "TierBytes",
    "tier_bytes",
]
