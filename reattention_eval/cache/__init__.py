"""Where the un-rotated keys and values of a layer live."""

from reattention_eval.cache.layer import LayerCache, RepeatedStep, RowCache

__all__ = ["LayerCache", "RepeatedStep", "RowCache"]
