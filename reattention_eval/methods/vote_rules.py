"""From a chunk's winners to the spans of its view: the paper's rule, and others at equal budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reattention_eval.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

    from reattention_eval.cache import RowCache

VOTES = ("count", "rank", "margin", "mass")  # the last three: reattention_kernels.votes.KINDS


def _setting(default: Any) -> Any:
    return field(default=default, metadata={"later": True})


@dataclass(frozen=True, kw_only=True)
class VoteRules(Method):
    """How votes are counted and spans kept. By default as in the paper (arXiv 2407.15176, section
    3): one vote for each winner, one set of spans for all heads of a layer. Every other setting
    attends to as many keys at most.

    Args:
        per_kv_head: each KV head's queries vote for spans of its own, and it attends to a view of
            its own, counted from 0.
        votes: what a query's vote for a winner counts: "count" 1; "rank" 1 / r for the r-th best;
            "margin" 1 - exp(-m), m by how much its score is above that of the best key that is not
            among the top_k; "mass" its part of a softmax over the top_k. Scores of both are
            q.k / sqrt(head_dim).
        span_grid: spans begin at every span_size tokens, and the max_spans with most votes inside
            are kept, so that none overlap; False: spans around the positions with most votes.
        vote_memory: the votes of so many tokens before are counted with a token's that votes alone
            (a new one, or `last_alone`), the less the older they are: of m tokens ago
            1 - m / (vote_memory + 1).
        layer_slope: the first layer keeps (1 + layer_slope) x max_spans spans, the last
            (1 - layer_slope) x max_spans, those between in a straight line, rounded to a stair of
            nine steps: max_spans in the mean.
    """

    per_kv_head: bool = _setting(False)
    votes: str = _setting("count")
    span_grid: bool = _setting(False)
    vote_memory: int = _setting(0)
    layer_slope: float = _setting(0.0)

    # fields of the method that follows these rules
    if TYPE_CHECKING:
        top_k: int
        max_spans: int
        span_size: int
        selection: str
        score: str

    def check_votes(self) -> None:
        """Raise ConfigError for settings that make no sense, alone or together."""
        self.require(
            self.votes in VOTES,
            f"unknown votes {self.votes!r}; there are: {', '.join(VOTES)}",
        )
        self.require(
            self.top_k > 1 or self.votes not in ("rank", "mass"),
            f"votes={self.votes!r} weighs a query's winners against each other, and top_k=1 leaves "
            'it one; raise top_k, or take votes="count" or "margin"',
        )
        self.require(
            self.score == "qk" or self.votes not in ("margin", "mass"),
            f'votes={self.votes!r} compares scores as attention has them, score="qk"; found '
            f"score={self.score!r}",
        )
        self.require(
            self.vote_memory >= 0, f"vote_memory must not be negative, found {self.vote_memory}"
        )
        slope = self.layer_slope
        self.require(
            type(slope) in (int, float) and -1 < slope < 1 and self.max_spans > self._steepest,
            f"layer_slope must be a number between -1 and 1 that leaves every layer a span of "
            f"max_spans {self.max_spans}, found {slope!r:.80}",
        )
        object.__setattr__(self, "layer_slope", float(slope))  # 0 and 0.0 are one setting

    @property
    def keeps_of_queries(self) -> bool:
        return self.vote_memory > 0

    @property
    def asked_keys(self) -> int:
        """Keys that every query names: with votes by margin the best that is not chosen too."""
        return self.top_k + (self.votes == "margin")

    @property
    def _step(self) -> int:
        """Spans between layers of different size: few sizes, since each has kernels of its own."""
        return max(1, round(abs(self.layer_slope) * self.max_spans) // 4)

    @property
    def _steepest(self) -> int:
        return self._step * round(abs(self.layer_slope) * self.max_spans / self._step)

    @property
    def widest_spans(self) -> int:
        """Spans kept by the layer that keeps most."""
        return self.max_spans + self._steepest

    def spans_of(self, layer: int, layers: int) -> int:
        """Spans kept by a layer, the first is 0: max_spans in the mean over all, to the last."""
        more = self.layer_slope * self.max_spans * (layers - 1 - 2 * layer) / max(1, layers - 1)
        # halves go to even, so that what one end has more the other has less
        return self.max_spans + self._step * round(more / self._step)

    def chosen_spans(
        self, row: RowCache, query: Tensor, key: Tensor, n: int, less: int
    ) -> tuple[Tensor, Tensor]:
        """The keys that C chunks of a row attend to among those they may choose.

        Args:
            row: as for `reattention_eval.attention.ViewsTogether.views`.
            query: [C, H, T, D].
            key: [Hkv, M, D] that can be chosen, M = n.
            n: how many there are; where the device knows, `less` than what it knows.

        Returns:
            Positions among them, int32 [C, W], ascending, -1 behind the last, and their number,
            int32 [C]; with per_kv_head [C, Hkv, W] and [C, Hkv].
        """
        from reattention_kernels import select_positions

        chunks, heads, length = len(query), len(key), row.device_length
        electorates = heads if self.per_kv_head else 1
        winners, weights = self._votes(
            row, query, key.expand(chunks, *key.shape), electorates, less
        )
        if electorates > 1 and length is not None and len(length) > 1:
            length = length[:, None].expand(-1, electorates).flatten()
        spans, count = select_positions(
            winners.view(chunks * electorates, 1, 1, -1),
            n,
            self.spans_of(*row.depth),
            self.span_size,
            length,
            less,
            None if weights is None else weights.view(chunks * electorates, 1, 1, -1),
            self.span_grid,
        )
        if not self.per_kv_head:
            return spans, count
        return spans.view(chunks, heads, -1), count.view(chunks, heads)

    def _votes(
        self, row: RowCache, query: Tensor, key: Tensor, electorates: int, less: int
    ) -> tuple[Tensor, Tensor | None]:
        """Winners int32 [C, E, V] of E electorates, and what each counts; None: 1."""
        import torch

        from reattention_eval.cache import RecentVotesFactory
        from reattention_kernels import topk_keys
        from reattention_kernels.votes import MAX_WEIGHT, vote_weights

        k = self.asked_keys
        winners = topk_keys(query, key, k, self.selection, row.device_length, less)
        weights = None
        if self.votes != "count":
            weights = vote_weights(query, key, winners, self.votes)
            winners = winners[..., : self.top_k].contiguous()

        def cast(votes: Tensor) -> Tensor:  # every head votes, wherever it lives
            votes = votes if self.per_kv_head else row.all_heads(votes, 1)
            return votes.reshape(len(query), electorates, -1)

        winners = cast(winners)
        weights = None if weights is None else cast(weights)
        if not self.vote_memory or query.shape[2] > 1:
            return winners, weights
        if weights is None:
            weights = torch.full_like(winners, MAX_WEIGHT)
        held = row.state(RecentVotesFactory(self.vote_memory))
        return held.pooled(row.capacity - len(query) + 1, winners, weights)
