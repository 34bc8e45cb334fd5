"""Where a text stands in a prompt, in tokens."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

LEAST = 3  # characters: a shorter text stands everywhere


def places(tokenizer: Any, ids: Sequence[int], text: str) -> list[tuple[int, int]]:
    """The fewest tokens [first, last) that show each occurrence of a text, in order: whatever its
    first and last token are merged with there. None of a text shorter than LEAST."""
    text = text.strip()
    if len(text) < LEAST:
        return []
    beyond = len(text.encode()) + 2  # tokens: one is a byte at least

    def shows(first: int, last: int) -> bool:
        return text in tokenizer.decode(
            ids[first:last], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def within(first: int, last: int) -> Iterator[tuple[int, int]]:
        """Halves that overlap, or what stands in the middle would be in none."""
        if not shows(first, last):
            return
        if last - first > 4 * beyond:
            middle = (first + last) // 2
            yield from within(first, middle + beyond)
            yield from within(middle - beyond, last)
            return
        ends, starts = range(first, last + 1), range(first, last)
        end = ends[bisect_left(ends, True, key=lambda end: shows(first, end))]
        start = starts[bisect_left(starts, True, key=lambda start: not shows(start + 1, end))]
        yield start, end
        yield from within(start + 1, last)

    return sorted(set(within(0, len(ids))))
