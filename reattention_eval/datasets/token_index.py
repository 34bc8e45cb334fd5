"""Where tokens and sentences lie in a haystack: counted once for a tokenizer, kept on disk."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from reattention_eval.checkpoints.cache_dir import cache_folder
from reattention_eval.checkpoints.registry import locked
from reattention_eval.datasets.haystack import Haystack, haystack_parts, iter_haystack
from reattention_eval.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# full stops of ASCII and CJK, closing quotes and brackets, then white space; or a new line
_SENTENCE_END = re.compile(r"[.!?\u3002\uff01\uff1f][\"'\u201d\u2019)\]]*\s+|\n\s*")
# one blank between two words: tokenizers start a token there
_CLEAN_CUT = re.compile(r"(?<=[A-Za-z]) (?=[A-Za-z])")
_PIECE = 1 << 20  # characters tokenised at once: bounds memory
_BATCH = 4  # pieces that the tokenizer may share out among its threads
_SEAM = 2000  # characters in which a piece looks for its clean cut
_SMALL = 1 << 20  # characters below which an index is not worth a file

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class HaystackIndex:
    """Character positions of tokens and sentences in `text`, ascending.

    `tokens[i]` is where token i starts. Counts between two clean cuts are exact; elsewhere a token
    may be missing or too many, an estimate that `exact_length.fit_end` makes exact.
    """

    name: str
    text: str
    tokens: Positions  # [n_tokens]
    sentences: Positions  # where sentences start; the first is 0
    joins: tuple[int, ...] = ()  # where one text ends and the next begins: counted by no index

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

    def sentence_starts_before(self, token: int) -> Positions:
        """Sentence starts not after token number `token`; at least [0]."""
        limit = int(self.tokens[min(token, len(self.tokens) - 1)])
        n = int(np.searchsorted(self.sentences, limit, side="right"))
        return self.sentences[: max(n, 1)]

    def nearest_sentence(self, position: int, start: int, end: int) -> int:
        """The sentence start in [start, end] nearest to `position`; `start` counts as one."""
        i = int(np.searchsorted(self.sentences, position))
        near = [int(p) for p in self.sentences[max(i - 1, 0) : i + 1] if start <= p <= end]
        return min([start, *near], key=lambda p: (abs(p - position), p))

    def sentence_at(self, share: float, start: int, end: int) -> int:
        """The start of the sentence that stands after `share` (0..1) of those in [start, end)."""
        first, last = np.searchsorted(self.sentences, [start, end])
        i = int(first) + int((last - first) * share)
        return int(self.sentences[i]) if i < last else end

    def clean_cut(self, start: int, end: int) -> int | None:
        """A blank between two words in [start, end) at which a token starts; None without one."""
        for match in _CLEAN_CUT.finditer(self.text, start, end):
            at = match.start()
            if int(self.tokens[np.searchsorted(self.tokens, at)]) <= at + 1:
                return at
        return None


@lru_cache(maxsize=8)
def index_haystack(tokenizer: PreTrainedTokenizerBase, haystack: Haystack) -> HaystackIndex:
    """Tokenise the haystack once; lengths, depths, repeats and later runs share the outcome.

    What a long text with a checksum gave is kept in the cache folder `token_index`, under a name
    made of the tokenizer's and the text's contents.
    """
    text = haystack.text
    if len(text) < _SMALL or not haystack.sha256:
        sentences = _sentences(text)
        return HaystackIndex(haystack.name, text, _tokens(tokenizer, text), sentences)
    folder = cache_folder(None, "token_index")
    mark = haystack.sha256[:20]
    sentences = _kept(folder / f"{mark}-sentences.npy", lambda: _sentences(text))
    name = f"{mark}-{tokenizer_digest(tokenizer)[:20]}.npy"
    tokens = _kept(folder / name, lambda: _tokens(tokenizer, text))
    return HaystackIndex(haystack.name, text, tokens, sentences)


@lru_cache(maxsize=2)
def _joined(tokenizer: PreTrainedTokenizerBase, texts: tuple[Haystack, ...]) -> HaystackIndex:
    if len(texts) == 1:
        return index_haystack(tokenizer, texts[0])
    joint, at = "\n\n", 0
    tokens, sentences, joins = [], [], []
    for haystack in texts:
        part = index_haystack(tokenizer, haystack)
        joins.append(at)
        tokens.append(part.tokens + at)
        sentences.append(part.sentences + at)
        at += len(part.text) + len(joint)
    return HaystackIndex(
        "+".join(t.name for t in texts),
        joint.join(t.text for t in texts),
        np.concatenate(tokens),
        np.concatenate(sentences),
        tuple(joins[1:]),
    )


# the texts of a source that were needed so far
_loaded: dict[str, list[Haystack]] = {}


def enough_text(
    tokenizer: PreTrainedTokenizerBase, source: str | Haystack, n_tokens: int
) -> HaystackIndex:
    """The first texts of `source` that together hold `n_tokens`; no text is used twice.

    Raises:
        DataError: all of them hold fewer.
    """
    if isinstance(source, Haystack):
        texts: Iterable[Haystack] = [source]
    else:
        texts = _texts(source)
    taken: list[Haystack] = []
    found = 0
    for haystack in texts:
        taken.append(haystack)
        found += index_haystack(tokenizer, haystack).n_tokens
        if found >= n_tokens:
            return _joined(tokenizer, tuple(taken))
    name = source.name if isinstance(source, Haystack) else source
    raise DataError(
        f"the haystack {name} has {found:,} tokens of this tokenizer, but {n_tokens:,} are needed; "
        "ask for a shorter length or add text: several texts are joined by '+', as in "
        f'haystack="{name}+/path/to/more.txt", and "long" is all the built-in ones.'
    )


def _texts(source: str) -> Iterator[Haystack]:
    key = "+".join(haystack_parts(source))
    known = _loaded.setdefault(key, [])
    yield from list(known)
    for number, haystack in enumerate(iter_haystack(source)):
        if number >= len(known):
            known.append(haystack)
            yield haystack


@lru_cache(maxsize=4)
def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 of all that a fast tokenizer is made of."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def _sentences(text: str) -> Positions:
    starts = [0, *(match.end() for match in _SENTENCE_END.finditer(text))]
    return np.unique(np.array([s for s in starts if s < len(text)], dtype=np.int64))


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> Positions:
    found = []
    pieces = list(_pieces(text))
    for at in range(0, len(pieces), _BATCH):
        batch = pieces[at : at + _BATCH]
        spans = tokenizer(
            [text[first:last] for first, last in batch],
            add_special_tokens=False,
            return_offsets_mapping=True,
            verbose=False,
        )["offset_mapping"]
        for (first, _), own in zip(batch, spans, strict=True):
            found.append(np.array(own, dtype=np.int64).reshape(-1, 2)[:, 0] + first)
    return np.concatenate(found)


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    first = 0
    while first < len(text):
        last = len(text)
        if last - first > _PIECE:
            near = _CLEAN_CUT.search(text, first + _PIECE - _SEAM, first + _PIECE)
            last = near.start() if near else first + _PIECE
        yield first, last
        first = last


def _kept(path: Path, make: Callable[[], Positions]) -> Positions:
    """The array in `path`, made and written the first time."""
    with locked(path):
        if path.exists():
            try:
                return np.load(path).astype(np.int64)
            except (OSError, ValueError):  # cut short by a full disk or a kill
                path.unlink()
        array = make()
        temporary = path.with_name(f".{os.getpid()}-{path.name}")
        try:
            np.save(temporary, array.astype(np.uint32))
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return array
