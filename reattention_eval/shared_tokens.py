"""Token ids of long texts that share their beginnings, which are tokenised once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LONG = 1 << 18  # characters of common beginning that are worth it: half a second
_MARGIN = 1000  # characters before the first difference in which no token is taken over
_OVERLAP = 2000  # characters before the seam that are tokenised again, and must give the same ids
# one blank between two words: tokenizers start a token there
_CLEAN_CUT = re.compile(r"(?<=[A-Za-z]) (?=[A-Za-z])")


class SharedTokens:
    """`ids(text)` as the tokenizer gives them, without special tokens of its own.

    A text that begins as the last whole one did takes that one's tokens up to a seam some way
    before they part. The seam lies between two words where a token starts, and is taken only if the
    text from some thousand characters before it, tokenised by itself, gives the same tokens up to
    it: so the ids are right for tokenizers that look no further than that.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._text = ""
        self._ids: list[int] = []
        self._encoding: Any = None

    def ids(self, text: str) -> list[int]:
        if self._tokenizer.is_fast and (shared := _common(text, self._text)) >= _LONG:
            ids = self._continued(text, shared)
            if ids is not None:
                return ids
        encoding = self._encode(text)
        ids = list(encoding["input_ids"])
        self._text, self._ids, self._encoding = ("", [], None)
        if len(text) >= _LONG:
            self._text, self._ids, self._encoding = text, ids, encoding
        return ids

    def _continued(self, text: str, shared: int) -> list[int] | None:
        seam = self._token_at_cut(shared - _MARGIN - _OVERLAP, shared - _MARGIN)
        first = self._token_at_cut(shared - _MARGIN - 3 * _OVERLAP, shared - _MARGIN - 2 * _OVERLAP)
        if seam is None or first is None:
            return None
        begin = self._encoding.token_to_chars(first).start
        tail = list(self._encode(text[begin:])["input_ids"])
        if tail[: seam - first] != self._ids[first:seam]:
            return None
        return self._ids[:first] + tail

    def _token_at_cut(self, start: int, end: int) -> int | None:
        """The first token that starts at a clean cut in [start, end) of the last whole text."""
        for match in _CLEAN_CUT.finditer(self._text, max(start, 0), end):
            token = self._encoding.char_to_token(match.start())
            if token is not None and self._encoding.token_to_chars(token).start == match.start():
                return int(token)
        return None

    def _encode(self, text: str) -> Any:
        return self._tokenizer(text, add_special_tokens=False, verbose=False)


def _common(one: str, other: str) -> int:
    """Characters that two texts have in common at their beginnings."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
