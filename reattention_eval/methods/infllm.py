"""InfLLM: the first tokens, the last, and the blocks of the past that a chunk's queries ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from reattention_eval.methods.base import BEYOND, ViewMethod
from reattention_eval.methods.memory import KeepsIndex

if TYPE_CHECKING:
    from torch import Tensor

    from reattention_eval.attention import BandedView
    from reattention_eval.cache import BlockFactory, RowCache

BUDGET = 8192  # as ReAttention's default scope


@dataclass(frozen=True)
class InfLLM(ViewMethod, KeepsIndex):
    """Every query attends to the `local_size` tokens up to itself at their own distances, and at
    one distance, local_size, to the first tokens and to the blocks of the past that matter most.

    Xiao et al., 2024, arXiv 2402.04617, section 3. A block is `block_size` tokens that had left the
    window before the chunk; its `representatives` are the keys with the largest mean q . k over the
    local_size queries behind each of them. All queries of a chunk, over all heads, ask together for
    the `top_k` blocks of which the representatives have the largest sum of q . k. Tokens behind the
    last whole block, less than a block and a chunk, are attended until they are one.

    Where the paper leaves a choice: both scores are of un-rotated queries and keys; with grouped
    queries a key is represented for all heads that read it. The chunks are the paper's own: the
    choice of blocks is theirs.

    Args:
        global_size: first tokens, always attended.
        local_size: last tokens attended, the query included; at least chunk_size.
        block_size: tokens of a block.
        representatives: keys that stand for a block (the paper's r_k).
        top_k: blocks attended (the paper's k_m). None: as many as `budget_tokens` hold.
        budget_tokens: instead, keys that a query attends to at most; 8,192 unless top_k is given.
    """

    name: ClassVar[str] = "infllm"
    source: ClassVar[str] = "Xiao et al., NeurIPS 2024, arXiv 2402.04617"
    family: ClassVar[str] = BEYOND
    budget_meaning: ClassVar[str] = (
        "global_size + local_size + top_k x block_size, and tokens that are no block yet"
    )
    global_size: int = 32
    local_size: int = 4096
    block_size: int = 32
    representatives: int = 4
    top_k: int | None = None
    budget_tokens: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            self.top_k is None or self.budget_tokens is None,
            f"give top_k or budget_tokens, not both; found {self.top_k!r:.80} and "
            f"{self.budget_tokens!r:.80}",
        )
        least = {"global_size": 0, "block_size": 1, "representatives": 1, "top_k": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None:
                self._check_kind(name, "int")
                self.require(value >= low, f"{name} must be at least {low}, found {value}")
        self.require(
            self.chunk_size <= self.local_size,
            f"chunk_size {self.chunk_size} must fit into local_size {self.local_size}, or a key "
            "could leave the window of its own chunk; lower chunk_size or raise local_size",
        )
        self.require(
            self.representatives <= self.block_size,
            f"a block of {self.block_size} tokens has no {self.representatives} representatives; "
            "lower representatives or raise block_size",
        )
        if self.top_k is not None:
            return
        if self.budget_tokens is None:
            object.__setattr__(self, "budget_tokens", BUDGET)  # one setting, however it is said
        self._check_kind("budget_tokens", "int")
        self.require(
            self.blocks >= 1,
            f"{self.budget_tokens} tokens hold no block beside global_size {self.global_size}, "
            f"local_size {self.local_size} and the tokens that are no block yet, {self._loose} at "
            f"most; raise budget_tokens to at least {self._fixed + self.block_size}, or lower "
            "local_size or chunk_size",
        )

    @property
    def _loose(self) -> int:
        """Keys behind the last block and before the window of a chunk's last query, at most."""
        return self.block_size - 1 + self.chunk_size

    @property
    def _fixed(self) -> int:
        """Keys attended without being chosen, at most."""
        return self.global_size + self.local_size + self._loose

    @property
    def blocks(self) -> int:
        """Blocks attended at most."""
        if self.top_k is not None:
            return self.top_k
        return ((self.budget_tokens or 0) - self._fixed) // self.block_size

    @property
    def budget(self) -> int:
        return self.budget_tokens or self._fixed + self.blocks * self.block_size

    @property
    def whole_until(self) -> int:
        return self.local_size

    def check(self, context_length: int) -> None:
        self.require(
            self.local_size < context_length,
            f"local_size {self.local_size} is the distance of all that is further away, and must "
            f"be below the model's trained window of {context_length}; lower it (half of the "
            "window is usual)",
        )

    @property
    def _memory(self) -> BlockFactory:
        from reattention_eval.cache import BlockFactory

        return BlockFactory(
            self.global_size, self.local_size, self.block_size, self.representatives
        )

    def index_bytes(self, tokens: int, head_dim: int) -> int:
        """Sums of representatives and of each chunk's queries, and scores of keys; and, by the
        cautious reckoning of one KV head, in which chunk they came."""
        blocks = (tokens - self.global_size - self.local_size) // self.block_size
        chunks = tokens // self.chunk_size + 1
        return max(0, blocks) * head_dim * 4 + chunks * head_dim * 8 + tokens * 3 * 4

    def read_queries(self, row: RowCache, query: Tensor) -> None:
        """`reattention_eval.attention.ReadsQueries`."""
        row.state(self._memory).read(row.key, query)

    def view(self, row: RowCache, query: Tensor) -> BandedView:
        import torch

        from reattention_eval.attention import BandedView, last_tokens, shared_band

        n, t, local, size = row.length, query.shape[1], self.local_size, self.block_size
        blocks = self._chosen_blocks(row, query)  # [b]
        begins = self.global_size + self._memory.blocks(n - t) * size  # what is no block yet

        def count(start: int, stop: int) -> Tensor:
            return torch.arange(start, max(start, stop), device=query.device)

        at = count(n - t, n)
        near = last_tokens(row, at, local)
        first, rest = count(0, min(self.global_size, n - local)), count(begins, n - local)
        of_blocks = (blocks * size + self.global_size)[:, None] + count(0, size)
        distant = torch.cat((first, of_blocks.flatten(), rest))

        def places() -> tuple[Tensor, Tensor]:
            return torch.zeros_like(distant), torch.full_like(at, local)

        # the window of the first query begins there: what is before it, all queries see
        bound = n - t - local + 1
        there = len(first), min(len(first), bound), len(blocks) * size, len(rest), bound - begins
        far = shared_band(row, (self, t, *there), distant, torch.zeros_like(at), near.first, places)
        extent = local + self.chunk_size
        return BandedView((near, far), extent, len(distant) + local, local + 1)

    def _chosen_blocks(self, row: RowCache, query: Tensor) -> Tensor:
        """int64 [b], ascending."""
        import torch

        before = row.length - query.shape[1]  # tokens
        there = self._memory.blocks(before)
        if there <= self.blocks:
            return torch.arange(there, device=query.device)
        exact = torch.promote_types(query.dtype, torch.float32)
        asked = query.unflatten(0, (row.key.shape[0], -1)).sum((1, 2), dtype=exact)
        found = row.state(self._memory).relevance(asked, before)
        found = row.all_heads(found, 0).sum(0)  # of every head, wherever it lives
        return found.sort(dim=0, descending=True, stable=True).indices[: self.blocks].sort().values
