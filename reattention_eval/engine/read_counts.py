"""What reading a prompt took up to each chunk boundary, so that a prefix which is still in the
cache counts like one that is read."""

from __future__ import annotations

from reattention_eval.attention import Hook
from reattention_eval.attention.counts import Counts


class ReadCounts:
    """Of the single prompt in a hook's cache."""

    def __init__(self, hook: Hook) -> None:
        self._hook = hook
        # by tokens read: what the prefix kept had taken, the counters when reading began, and then
        self._marks: dict[int, tuple[Counts, Counts, Counts]] = {}
        self._base = self._before = Counts()
        self.reused = Counts()

    def reset(self) -> None:
        """Forget what was reused; the cache is as it was."""
        self.reused = Counts()

    def begin(self, kept: int) -> None:
        """A prompt is going to be read of which `kept` tokens are there already."""
        self._before = self._taken(kept)
        self._marks = {length: mark for length, mark in self._marks.items() if length <= kept}
        self._base = self._hook.counts()
        self.reused = self.reused.plus(self._before)

    def mark(self, length: int) -> None:
        """So many tokens of the prompt have been read."""
        self._marks[length] = self._before, self._base, self._hook.counts()

    def _taken(self, length: int) -> Counts:
        if length not in self._marks:
            return Counts()
        before, base, then = self._marks[length]
        return before.plus(then.plus(base, -1))
