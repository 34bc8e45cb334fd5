"""The values of rows that stay on the device: their first tokens, and the last ones as a ring."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from reattention_eval.cache.values import grown, storage


class ValueWindow:
    """[B, Hkv, R, D]: a row's tokens below `first` at their own places, token p of the others at
    first + (p - first) % (R - first) (`reattention_kernels.values.SplitValues`). So the tokens of
    a row of at most R tokens lie one behind the other.

    like: [*, Hkv, *, D].
    """

    def __init__(self, rows: int, room: int, first: int, like: Tensor) -> None:
        room, self._most_first = max(2, room), first
        self.first = min(first, room - 1)
        self.tensor = storage((rows, like.shape[1], room, like.shape[3]), like)

    @property
    def room(self) -> int:
        return self.tensor.shape[2]

    @property
    def behind(self) -> int:
        """Places of the ring."""
        return self.room - self.first

    @property
    def token_bytes(self) -> int:
        return self.tensor.shape[1] * self.tensor.shape[3] * self.tensor.element_size()

    def grow(self, room: int, used: int) -> None:
        """To so many places, none of which has been taken twice; `used` have been once."""
        if room > self.room:
            self.tensor = grown(self.tensor, room, used)
            self.first = min(self._most_first, room - 1)  # which tokens lie where does not change

    def place(self, token: int) -> int:
        return token if token < self.first else self.first + (token - self.first) % self.behind

    def oldest(self, written: int) -> int:
        """Of so many tokens, the first behind the first ones that has its place still."""
        return max(0, written - self.behind)

    def runs(self, row: int, start: int, stop: int) -> Iterator[tuple[int, int, Tensor]]:
        """(first, last + 1, their places [Hkv, n, D]) of the runs that tokens make."""
        at = start
        while at < stop:
            place, edge = self.place(at), self.first if at < self.first else self.room
            end = min(stop, at + edge - place)
            yield at, end, self.tensor[row, :, place : place + end - at]
            at = end

    def write(self, row: int, start: int, value: Tensor) -> None:
        """value [Hkv, T, D] of tokens start.. , as far as their places are not others' by then."""
        stop = start + value.shape[1]
        last_ones = max(start, self.oldest(stop), self.first)
        for first, last in ((start, min(stop, self.first)), (last_ones, stop)):
            for begin, end, places in self.runs(row, first, last):
                places.copy_(value[:, begin - start : end - start])
