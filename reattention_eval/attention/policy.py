"""What a view method must answer: which cached positions a chunk's queries attend to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from reattention_eval.attention.banded_view import BandedView
from reattention_eval.attention.chosen_keys import PositionsView, ScoredView
from reattention_eval.cache import RowCache
from reattention_eval.errors import ConfigError
from reattention_kernels.view import view_rows


class View(NamedTuple):
    """What a chunk of T tokens attends to, and where RoPE counts it.

    Attention is causal and aligned to the lower right: the last T of the n positions are the chunk
    itself, query t sees all but the T - 1 - t last of them, whatever their places.

    positions: int64 [n], ascending, for all heads; or [Hkv, n], for each KV head its own.
    places: int64 [n] or [Hkv, n], not negative, in any order and as often as you like: where RoPE
        counts each key. None: at 0..n-1, and the queries at the last T of them.
    query_places: int64 [T], where RoPE counts the queries; given with `places`.
    extent: all places are below it, so that nothing waits for the device; given with `places`.
        RoPE scaling that depends on the length takes it for the view's.
    """

    positions: Tensor
    places: Tensor | None = None
    query_places: Tensor | None = None
    extent: int | None = None

    def check(self, name: str, budget: int | None, row: RowCache, query: Tensor) -> None:
        """Raise ConfigError, naming the method, for a view that is not as said above, or of more
        keys than `budget`.

        Shapes always; values where reading them does not wait for a device.
        """
        problem = self._problem(row, query) or self._beyond(budget)
        if problem:
            raise ConfigError(
                f"{name}: the view of layer {row.layer} {problem} "
                "(see reattention_eval.attention.View)."
            )

    def _beyond(self, budget: int | None) -> str | None:
        n = self.positions.shape[-1]
        within = budget is None or n <= budget
        return None if within else f"has {n} positions, and the method's budget is {budget}"

    def _problem(self, row: RowCache, query: Tensor) -> str | None:
        if not isinstance(self.positions, Tensor):
            return f"has positions of the type {type(self.positions).__name__}, not a tensor"
        heads, tokens, n = row.key.shape[0], query.shape[1], self.positions.shape[-1]
        shapes = ([n], [heads, n])
        if self.positions.dtype != torch.int64 or list(self.positions.shape) not in shapes:
            return (
                f"has positions {self.positions.dtype} {list(self.positions.shape)}, "
                f"not int64 [n] or [{heads}, n]"
            )
        if not tokens <= n <= row.length:
            return f"has {n} positions, of {row.length} tokens and for a chunk of {tokens}"
        if self.positions.device.type == "cpu":
            chunk = torch.arange(row.length - tokens, row.length)
            if not bool((self.positions[..., n - tokens :] == chunk).all()):
                return f"does not end with the chunk's own positions, the last {tokens}"
            if bool((self.positions.diff(dim=-1) <= 0).any()) or int(self.positions.min()) < 0:
                return "has positions that do not ascend from 0 or more"
        given = [part is not None for part in self[1:]]
        if any(given) and not all(given):
            return "must give places, query_places and extent together"
        return self._problem_of_places(shapes, tokens)

    def _problem_of_places(self, shapes: tuple[list[int], ...], tokens: int) -> str | None:
        if self.places is None or self.query_places is None or self.extent is None:
            return None
        if list(self.places.shape) not in shapes or list(self.query_places.shape) != [tokens]:
            return (
                f"has places {list(self.places.shape)} and query_places "
                f"{list(self.query_places.shape)}, not {' or '.join(map(str, shapes))} and "
                f"[{tokens}]"
            )
        both = (self.places, self.query_places)
        if any(part.dtype != torch.int64 for part in both):
            return "has places that are not int64"
        if self.places.device.type == "cpu" and any(
            int(part.min()) < 0 or int(part.max()) >= self.extent for part in both
        ):
            return f"has places outside 0..{self.extent - 1}, its extent"
        return None


@dataclass(frozen=True)
class Selection:
    """A view of global, selected and local tokens, whose size only the device knows.

    spans: int32 [C, W], ascending, counted from the end of the global part, -1 behind the last;
    count: int32 [C], how many are real; the local part is the cache's last `local_size` tokens.
    C is 1, or as many chunks as were asked for together. [C, Hkv, W] and [C, Hkv]: for each KV head
    its own view, in which it is counted from 0.
    """

    spans: Tensor
    count: Tensor
    global_size: int
    local_size: int

    def positions(self, length: int) -> Tensor:
        """One chunk's, as ascending int64 [n] of a cache of `length` tokens, each once, of all
        heads together; waits for it."""
        of_heads = self.of_heads(length)
        return of_heads[0] if len(of_heads) == 1 else torch.cat(of_heads).unique()

    def of_heads(self, length: int) -> list[Tensor]:
        """As `positions`, one for each KV head where they have their own; else one."""
        counts = self.count[0].flatten().tolist()
        of_heads = self.spans[0].reshape(len(counts), self.spans.shape[-1])
        return [
            view_rows(spans, count, length, self.global_size, self.local_size)
            for spans, count in zip(of_heads, counts, strict=True)
        ]


class ViewPolicy(Protocol):
    """One question per layer and chunk; no knowledge of models, RoPE or attention kernels."""

    name: ClassVar[str]

    @property
    def budget(self) -> int | None:
        """Keys that a query attends to at most; None for all."""
        ...

    @property
    def chunk_size(self) -> int:
        """Tokens whose queries are answered together."""
        ...

    @property
    def renumbers(self) -> bool:
        """False: keys stay at their own positions, so RoPE is applied once, on append, and `view`
        chooses among rotated ones."""
        ...

    @property
    def reads_whole(self) -> bool:
        """True: prompts and turns attend to the whole cache; tokens behind them are asked for one
        by one."""
        ...

    @property
    def whole_layers(self) -> int:
        """So many of the first layers attend to the whole cache always."""
        ...

    def view(
        self, row: RowCache, query: Tensor
    ) -> View | Selection | BandedView | PositionsView | ScoredView | None:
        """What the chunk attends to; its own keys are already in the cache.

        Asked where `selects` holds; otherwise the view is the whole cache at 0..n-1. None, where
        it is asked, counts as a step that should have selected and did not. A policy that does not
        renumber gives a PositionsView or a ScoredView, others one of the first three.

        Args:
            row: keys and values of one row, un-rotated where the policy renumbers.
            query: [H, T, D], the chunk's queries, likewise: the last T of the row's tokens.
        """
        ...

    def selects(self, length: int) -> bool:
        """Whether the method has a view of its own of a cache of `length` tokens."""
        ...


@runtime_checkable
class ViewsTogether(Protocol):
    """What a policy may offer besides: the views of several chunks of a row in one call."""

    @property
    def budget(self) -> int:
        """Keys of a view at most."""
        ...

    @property
    def first_tokens(self) -> int:
        """Of a row, that every view has."""
        ...

    @property
    def fetched_keys(self) -> int | None:
        """Keys of a layer's view at most, the same for all heads; None: heads have their own."""
        ...

    def views(self, row: RowCache, query: Tensor) -> Selection:
        """As `view` for each of C chunks, one behind the other and equally long.

        Args:
            row: up to the last chunk's end; its `device_length` (int32 [C]) holds the tokens that
                there are for each chunk.
            query: [C, H, T, D], un-rotated.
        """
        ...


@runtime_checkable
class ReadsQueries(Protocol):
    """What a policy may offer besides: it is shown every chunk that it answers, whether or not it
    has a view of its own of it, once and in order, before it is asked for the view."""

    def read_queries(self, row: RowCache, query: Tensor) -> None:
        """As for `view`."""
        ...


@runtime_checkable
class LastApart(Protocol):
    """What a policy may offer besides: the last tokens of a prompt or turn are chunks apart from
    those before them, counted from the first of the last."""

    @property
    def last_chunk_size(self) -> int:
        """Tokens whose queries are answered together among them."""
        ...

    def last_part(self, tokens: int, document: int | None) -> int:
        """How many of a prompt's tokens are its last.

        Args:
            document: how many of them stand before the question; 0 of a turn behind a prompt; None
                where it is not known.

        Raises:
            ConfigError: it has to be known.
        """
        ...
