"""Where the keys and values of a layer live, and what methods keep beside them."""

from reattention_eval.cache.block_memory import BlockFactory, BlockMemory
from reattention_eval.cache.layer import LayerCache, RepeatedStep, RowCache
from reattention_eval.cache.page_bounds import PageBounds, PageBoundsFactory
from reattention_eval.cache.recent_votes import RecentVotes, RecentVotesFactory
from reattention_eval.cache.row_state import RowState

__all__ = [
    "BlockFactory",
    "BlockMemory",
    "LayerCache",
    "PageBounds",
    "PageBoundsFactory",
    "RecentVotes",
    "RecentVotesFactory",
    "RepeatedStep",
    "RowCache",
    "RowState",
]
