"""The hook on transformers, RoPE of a view, attention over a view."""

from reattention_eval.attention.banded_view import Band, BandedView, last_tokens, shared_band
from reattention_eval.attention.chosen_keys import PositionsView, ScoredView
from reattention_eval.attention.hook import Hook
from reattention_eval.attention.model_parts import short_prompt, watched
from reattention_eval.attention.policy import (
    LastApart,
    ReadsQueries,
    Selection,
    View,
    ViewPolicy,
    ViewsTogether,
)
from reattention_eval.attention.refusals import check_model
from reattention_eval.attention.row_lengths import RowStep, ends_of_chunks, last_part

__all__ = [
    "Band",
    "BandedView",
    "Hook",
    "LastApart",
    "PositionsView",
    "ReadsQueries",
    "RowStep",
    "ScoredView",
    "Selection",
    "View",
    "ViewPolicy",
    "ViewsTogether",
    "check_model",
    "ends_of_chunks",
    "last_part",
    "last_tokens",
    "shared_band",
    "short_prompt",
    "watched",
]
