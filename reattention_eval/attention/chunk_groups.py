"""The chunks of a forward, cut into groups that are answered alike."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ChunkGroup:
    """Chunks one behind the other.

    place: of the first one among its forward's chunks; begin, end: in the row's new tokens;
    ends: tokens that the row holds behind each chunk; selects: the policy has a view of its own of
    each, and all have equally many tokens.
    """

    place: int
    begin: int
    end: int
    ends: tuple[int, ...]
    selects: bool

    @property
    def tokens(self) -> int:
        return self.end - self.begin

    @property
    def chunk_tokens(self) -> int:
        """Of each chunk, where all have equally many."""
        return self.tokens // len(self.ends)

    def chunks(self) -> list[tuple[int, slice, int]]:
        """(place, tokens of the group, tokens that the row holds behind it) of each chunk."""
        before = self.ends[-1] - self.tokens
        begins = [before, *self.ends[:-1]]
        return [
            (self.place + i, slice(begin - before, end - before), end)
            for i, (begin, end) in enumerate(zip(begins, self.ends, strict=True))
        ]


def chunk_ends(count: int, chunk_size: int, last: int = 0, last_chunk_size: int = 1) -> list[int]:
    """Where each chunk of a row's `count` new tokens ends; those of the `last` are counted anew."""
    first = count - last
    starts = [*range(0, first, chunk_size), *range(first, count, last_chunk_size)]
    return [*starts[1:], count] if count else []


def group_chunks(
    held: int,
    ends: Sequence[int],
    selects: Callable[[int], bool],
    alike: Callable[[int], Hashable],
    most: int | None = None,
) -> list[ChunkGroup]:
    """New tokens of a row that holds `held`, as chunks that end at `ends` of them (`chunk_ends`).

    selects: whether the policy has a view of its own of so many tokens; alike: what chunks that end
    at so many tokens must have in common to be answered by the whole cache together; most: tokens
    of a group of chunks with views of their own, of which it has one at least.
    """
    groups: list[ChunkGroup] = []
    kinds: list[Hashable] = []
    for place, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
        own = selects(held + end)
        kind = (end - begin) if own else (None, alike(held + end))
        full = own and most is not None and groups and end - groups[-1].begin > most
        if groups and kinds[-1] == kind and not full:
            last = groups[-1]
            ends = (*last.ends, held + end)
            groups[-1] = ChunkGroup(last.place, last.begin, end, ends, own)
        else:
            groups.append(ChunkGroup(place, begin, end, (held + end,), own))
            kinds.append(kind)
    return groups
