"""Where tokens and sentences lie in a haystack, and the end that makes a prompt exactly long."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from reattention_eval.datasets.haystack import Haystack
from reattention_eval.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# full stops of ASCII and CJK, closing quotes and brackets, then white space; or a new line
_SENTENCE_END = re.compile(r"[.!?\u3002\uff01\uff1f][\"'\u201d\u2019)\]]*\s+|\n\s*")
_PIECE = 1 << 20  # characters tokenised at once: bounds memory
_NEAR = 400  # characters before the end that are tokenised again while it is searched
_REACH = 48  # characters tried on either side of the estimated end
_TRIES = 12
# ways to close a sentence that is cut short: a last word of two tokens can skip the wanted count
_MARKS = ("", ".", " ...", " -")

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class HaystackIndex:
    """Character positions of tokens and sentences in `text`, ascending.

    `tokens[i]` is where token i starts, counted on pieces of the text, so it may be off by a token
    in a million characters: an estimate that `fit_end` makes exact.
    """

    name: str
    text: str
    tokens: Positions  # [n_tokens]
    sentences: Positions  # where sentences start; the first is 0

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    def shift(self, position: int, n: int) -> int:
        """The character position about `n` tokens after `position`."""
        i = int(np.searchsorted(self.tokens, position)) + n
        if i >= len(self.tokens):
            return len(self.text)
        return int(self.tokens[max(i, 0)])

    def tokens_between(self, start: int, end: int) -> int:
        first, last = np.searchsorted(self.tokens, [start, end])
        return int(last - first)

    def sentence_starts_before(self, token: int) -> Sequence[int]:
        """Sentence starts not after token number `token`; at least [0]."""
        limit = int(self.tokens[min(token, len(self.tokens) - 1)])
        n = int(np.searchsorted(self.sentences, limit, side="right"))
        return [int(position) for position in self.sentences[: max(n, 1)]]

    def nearest_sentence(self, position: int, start: int, end: int) -> int:
        """The sentence start in [start, end] nearest to `position`; `start` counts as one."""
        i = int(np.searchsorted(self.sentences, position))
        near = [int(p) for p in self.sentences[max(i - 1, 0) : i + 1] if start <= p <= end]
        return min([start, *near], key=lambda p: (abs(p - position), p))


@lru_cache(maxsize=2)
def index_haystack(tokenizer: PreTrainedTokenizerBase, haystack: Haystack) -> HaystackIndex:
    """Tokenise the haystack once; lengths, depths and repeats share the outcome."""
    text = haystack.text
    starts = [0, *(match.end() for match in _SENTENCE_END.finditer(text))]
    sentences = np.unique(np.array([s for s in starts if s < len(text)], dtype=np.int64))
    tokens = []
    for first, last in _pieces(len(text), sentences):
        spans = tokenizer(
            text[first:last], add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )["offset_mapping"]
        tokens.append(np.array(spans, dtype=np.int64).reshape(-1, 2)[:, 0] + first)
    return HaystackIndex(haystack.name, text, np.concatenate(tokens), sentences)


def _pieces(n: int, sentences: Positions) -> Iterator[tuple[int, int]]:
    first = 0
    while first < n:
        last = n
        if n - first > _PIECE:
            i = int(np.searchsorted(sentences, first + _PIECE, side="right")) - 1
            last = int(sentences[i]) if sentences[i] > first else first + _PIECE
        yield first, last
        first = last


@dataclass(frozen=True)
class Layout:
    """A prompt but for its haystack's end: intro, text[start:insert], needle, rest, question."""

    intro: str
    start: int
    insert: int
    needle: str
    question: str

    def prompt(self, text: str, end: Ending) -> str:
        before, after = text[self.start : self.insert], text[self.insert : end.position]
        body = f"{self.intro}{before}{self.needle} {after}".rstrip()
        return body + end.mark + self.question


class Ending(NamedTuple):
    """The haystack of a prompt stops at `position`; `mark` closes the cut sentence."""

    position: int
    mark: str = ""


def fit_end(
    tokenizer: PreTrainedTokenizerBase,
    index: HaystackIndex,
    layout: Layout,
    end: int,
    length: int,
    count: Callable[[str], int],
) -> tuple[str, int]:
    """The prompt whose `count` is exactly `length`, and where its stretch of haystack ends.

    `end` is a first guess. The whole prompt is counted once or twice; in between only its last few
    hundred characters are tokenised. An end between words is preferred to one inside a word.

    Raises:
        DataError: no end gives this length (a text without variety, such as one long word).
    """
    ending = Ending(max(end, layout.insert))
    tried: set[Ending] = set()
    while len(tried) < _TRIES:
        prompt = layout.prompt(index.text, ending)
        missing = length - count(prompt)
        if missing == 0:
            return prompt, ending.position
        tried.add(ending)
        ending = _better_ending(tokenizer, index, layout, ending, missing, tried)
    raise DataError(
        f"no stretch of the haystack {index.name} makes a prompt of exactly {length} tokens; "
        "use a haystack of ordinary prose, or another length."
    )


def _better_ending(
    tokenizer: PreTrainedTokenizerBase,
    index: HaystackIndex,
    layout: Layout,
    ending: Ending,
    missing: int,
    tried: set[Ending],
) -> Ending:
    """An ending that should add `missing` tokens, judged on the tail of the prompt alone."""
    text = index.text
    guess = index.shift(ending.position, missing)
    tail_start = min(guess - _REACH, ending.position) - _NEAR
    fixed = len(layout.intro) + max(tail_start - layout.start, 0)

    def tail_tokens(candidate: Ending) -> int:
        tail = layout.prompt(text, candidate)[fixed:]
        return len(tokenizer(tail, add_special_tokens=False, verbose=False)["input_ids"])

    def taste(candidate: Ending) -> tuple[bool, int, int]:
        position, mark = candidate
        return not _between_words(text, position), _MARKS.index(mark), abs(position - guess)

    wanted = tail_tokens(ending) + missing
    first, last = max(guess - _REACH, layout.insert), min(guess + _REACH, len(text))
    # right after the needle no mark: it would change the needle
    candidates = [
        Ending(position, mark)
        for position in range(first, last + 1)
        for mark in _MARKS
        if position > layout.insert or not mark
    ]
    candidates = [
        candidate for candidate in sorted(candidates, key=taste) if candidate not in tried
    ]
    for candidate in candidates:
        if tail_tokens(candidate) == wanted:
            return candidate
    return min(candidates, key=lambda candidate: abs(tail_tokens(candidate) - wanted))


def _between_words(text: str, position: int) -> bool:
    return position == len(text) or (text[position].isspace() and not text[position - 1].isspace())
