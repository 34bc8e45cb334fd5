"""What the answers of a hook's layers share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from reattention_eval.attention.attend import ViewAttention
from reattention_eval.attention.counts import ChunkCounter
from reattention_eval.attention.fused_view_attention import FusedViewAttention
from reattention_eval.attention.last_views import LastViews
from reattention_eval.attention.model_parts import AttentionLayer
from reattention_eval.attention.row_lengths import RowLengths
from reattention_eval.cache import LayerCache


@dataclass(frozen=True)
class AnswerParts:
    """The layers and their caches, what a forward carries, what attends, the counters, and what
    each layer attended to at last."""

    layers: Sequence[AttentionLayer]
    caches: Sequence[LayerCache]
    rows: RowLengths
    attend: ViewAttention = field(default_factory=ViewAttention)
    fused: FusedViewAttention = field(default_factory=FusedViewAttention)
    counter: ChunkCounter = field(default_factory=ChunkCounter)
    views: LastViews = field(default_factory=LastViews)
