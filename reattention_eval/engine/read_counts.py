"""What reading a prompt took up to each chunk boundary, so that a prefix which is still in the
cache counts like one that is read."""

from __future__ import annotations

from dataclasses import dataclass, replace

from reattention_eval.attention.counts import Counts


@dataclass(frozen=True)
class _Forward:
    """ends: tokens read behind each of its chunks; earlier: what all before it had taken."""

    ends: list[int]
    earlier: Counts
    taken: Counts


class ReadCounts:
    """Of the single prompt in a hook's cache."""

    def __init__(self) -> None:
        self._forwards: list[_Forward] = []
        self.reused = Counts()

    def reset(self) -> None:
        """Forget what was reused; the cache is as it was."""
        self.reused = Counts()

    def begin(self, kept: int) -> None:
        """A prompt is going to be read of which `kept` tokens are there already."""
        held = [replace(f, ends=[end for end in f.ends if end <= kept]) for f in self._forwards]
        self._forwards = [forward for forward in held if forward.ends]
        self.reused = self.reused.plus(self._taken())

    def read(self, ends: list[int], before: Counts, after: Counts) -> None:
        """A forward has read the prompt's next chunks, up to `ends`; the counters around it."""
        self._forwards.append(_Forward(ends, self._taken(), after.minus(before)))

    def _taken(self) -> Counts:
        """By all that was read."""
        if not self._forwards:
            return Counts()
        last = self._forwards[-1]
        return last.earlier.plus(last.taken.first(len(last.ends)))
