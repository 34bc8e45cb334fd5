"""Texts that anybody may have written, as a terminal or a page can show them."""

from __future__ import annotations

_KEPT = "\u3000"  # the space of Chinese text


def visible(text: str, limit: int) -> str:
    """At most `limit` characters of `text`, on one line, every control character spelled out.

    Escapes, line feeds, NUL, U+2028, changes of direction and halves of surrogate pairs stand as
    Python writes them; of a longer text head and tail remain, with how much lies between.
    """
    if len(text) > limit:
        tail = limit // 3
        cut = f" [... {len(text) - limit:,} ...] "
        return _spelled(text[: limit - tail]) + cut + _spelled(text[len(text) - tail :])
    return _spelled(text)


def _spelled(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in _KEPT else char.encode("unicode_escape").decode()
        for char in text
    )
