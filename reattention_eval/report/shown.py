"""A cell of a table: its words, and what its looks and its place in an order depend on."""

from __future__ import annotations

import math
import unicodedata

FAILED, MISSING, UNFINISHED = "failed", "missing", "unfinished"


class Shown(str):
    """Words in a table.

    value: the number that columns are sorted by; NaN: none.
    best: in bold: no other figure of its column is better beyond the intervals.
    state: failed, missing or unfinished; empty for a figure.
    """

    value: float
    best: bool
    state: str

    def __new__(
        cls, words: str, value: float = math.nan, best: bool = False, state: str = ""
    ) -> Shown:
        made = super().__new__(cls, words)
        made.value, made.best, made.state = value, best, state
        return made


def visible(text: str, limit: int | None = None) -> str:
    """What a terminal or page may show of a text that anybody may have written.

    Control and format characters (escapes, NUL, U+2028, changes of direction) and halves of
    surrogate pairs are spelled out, line feeds and tabs aside; what lies beyond `limit` characters
    is counted.
    """
    cut = "" if limit is None or len(text) <= limit else f" [... {len(text) - limit:,} more]"
    kept = text if limit is None else text[:limit]
    return "".join(_spelled(char) for char in kept) + cut


def one_line(text: str, limit: int) -> str:
    """As `visible`, on one line: line feeds and tabs are spelled out, and of a longer text head and
    tail remain, with how much lies between."""
    if len(text) > limit:
        tail = limit // 3
        cut = f" [... {len(text) - limit:,} ...] "
        return one_line(text[: limit - tail], limit) + cut + one_line(text[-tail:], limit)
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def _spelled(char: str) -> str:
    if char in "\n\t" or (unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp")):
        return char
    return char.encode("unicode_escape").decode("ascii")
