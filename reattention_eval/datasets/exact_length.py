"""The end of the haystack that makes a prompt exactly as long as it should be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from reattention_eval.datasets.token_index import HaystackIndex
from reattention_eval.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NEAR = 400  # characters before the end that are tokenised again while it is searched
_REACH = 48  # characters tried on either side of the estimated end
_TRIES = 12
# ways to close a sentence that is cut short: a last word of two tokens can skip the wanted count
_MARKS = ("", ".", " ...", " -")
# where these make no more tokens, as before an empty line, which some tokenizers join with them
_MORE_MARKS = (*_MARKS, " etc.", " and so on.")
_WHOLE = 1 << 20  # characters of haystack up to which a prompt is counted as a whole
_KEPT = 4000  # of a longer stretch, characters at either end that are


class Insert(NamedTuple):
    """Text that stands at `position` of the haystack, with its own white space around it."""

    position: int
    text: str


class Ending(NamedTuple):
    """The haystack of a prompt stops at `position`; `mark` closes the cut sentence."""

    position: int
    mark: str = ""


@dataclass(frozen=True)
class Layout:
    """A prompt but for its haystack's end: intro, text from `start` with `inserts`, question.

    `inserts` are in ascending order of their positions.
    """

    intro: str
    start: int
    inserts: Sequence[Insert]
    question: str

    @property
    def last(self) -> int:
        """The haystack reaches at least to the last insert."""
        return self.inserts[-1].position if self.inserts else self.start

    def prompt(self, text: str, end: Ending) -> str:
        return self.intro + self.tail(text, self.start, end)

    def tail(self, text: str, start: int, end: Ending) -> str:
        """The prompt from the haystack's position `start` on."""
        parts, at = [], start
        for position, insert in self.inserts:
            if position >= start:
                parts += [text[at:position], insert]
                at = position
        parts.append(text[at : end.position])
        return "".join(parts).rstrip() + end.mark + self.question


def fit_end(
    tokenizer: PreTrainedTokenizerBase,
    index: HaystackIndex,
    layout: Layout,
    end: int,
    length: int,
    count: Callable[[str], int],
) -> tuple[str, int]:
    """The prompt whose `count` is exactly `length`, and where its stretch of haystack ends.

    `end` is a first guess. The prompt is counted once or twice, see `prompt_tokens`; in between
    only its last few hundred characters are tokenised. An end between words is preferred to one
    inside a word.

    Raises:
        DataError: no end gives this length (a text without variety, such as one long word).
    """
    found = _fitted(tokenizer, index, layout, end, length, count, _MARKS)
    if found is None:  # an insert at the very end takes no mark: it goes a sentence back
        freed = _with_end_free(index, layout, layout.last - 1)
        found = _fitted(tokenizer, index, freed, end, length, count, _MORE_MARKS)
    if found is None:
        raise DataError(
            f"no stretch of the haystack {index.name} makes a prompt of exactly {length} tokens; "
            "use a haystack of ordinary prose, or another length."
        )
    return found


def _fitted(
    tokenizer: PreTrainedTokenizerBase,
    index: HaystackIndex,
    layout: Layout,
    end: int,
    length: int,
    count: Callable[[str], int],
    marks: Sequence[str],
) -> tuple[str, int] | None:
    ending = Ending(max(end, layout.last))
    tried: set[Ending] = set()
    while len(tried) < _TRIES:
        missing = length - prompt_tokens(tokenizer, index, layout, ending, count)
        if missing == 0:
            return layout.prompt(index.text, ending), ending.position
        tried.add(ending)
        layout = _with_end_free(index, layout, index.shift(ending.position, missing))
        ending = _better_ending(tokenizer, index, layout, ending, missing, tried, marks)
    return None


def _with_end_free(index: HaystackIndex, layout: Layout, end: int) -> Layout:
    """`layout` with inserts near or beyond `end` at the last sentence that leaves it free."""
    limit = end - _REACH
    if layout.last <= end or limit <= layout.start:
        return layout
    place = index.nearest_sentence(limit, layout.start, limit)
    inserts = [Insert(min(position, place), text) for position, text in layout.inserts]
    return replace(layout, inserts=inserts)


def prompt_tokens(
    tokenizer: PreTrainedTokenizerBase,
    index: HaystackIndex,
    layout: Layout,
    ending: Ending,
    count: Callable[[str], int],
) -> int:
    """`count` of the prompt, without tokenising millions of tokens again.

    Of a long stretch the inside is left out, from one blank between two words to another, and its
    tokens are taken from the index. Tokens end at such blanks in the full text, which the index
    says, and where the two blanks meet, which is checked; so the sum is exact for tokenizers that
    look no further than some hundred characters.
    """
    if ending.position - layout.start <= _WHOLE:
        return count(layout.prompt(index.text, ending))
    joins = [Insert(at, "") for at in index.joins if layout.start < at < ending.position]
    stops = [*layout.inserts, *joins, Insert(ending.position, "")]
    parts, left_out, first = [layout.intro], 0, layout.start
    for last, insert in sorted(stops, key=lambda stop: stop.position):
        hole = _hole(tokenizer, index, first, last)
        if hole is None:
            parts.append(index.text[first:last])
        else:
            parts += [index.text[first : hole[0]], index.text[hole[1] : last]]
            left_out += index.tokens_between(*hole)
        parts.append(insert)
        first = last
    return count("".join(parts).rstrip() + ending.mark + layout.question) + left_out


def _hole(
    tokenizer: PreTrainedTokenizerBase, index: HaystackIndex, first: int, last: int
) -> tuple[int, int] | None:
    """Two clean cuts between `first` and `last` whose outer texts may be joined; None without."""
    if last - first < 4 * _KEPT:
        return None
    start = index.clean_cut(first + _KEPT // 2, first + _KEPT)
    end = index.clean_cut(last - _KEPT, last - _KEPT // 2)
    if start is None or end is None:
        return None
    window = index.text[start - _NEAR : start] + index.text[end : end + _NEAR]
    spans = tokenizer(window, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
        "offset_mapping"
    ]
    ends = [span[1] for span in spans if span[0] < _NEAR]
    return (start, end) if max(ends) <= _NEAR else None


def _better_ending(
    tokenizer: PreTrainedTokenizerBase,
    index: HaystackIndex,
    layout: Layout,
    ending: Ending,
    missing: int,
    tried: set[Ending],
    marks: Sequence[str],
) -> Ending:
    """An ending that should add `missing` tokens, judged on the tail of the prompt alone."""
    text = index.text
    guess = index.shift(ending.position, missing)
    tail_start = max(min(guess - _REACH, ending.position) - _NEAR, layout.start)

    def tail_tokens(candidate: Ending) -> int:
        tail = layout.tail(text, tail_start, candidate)
        return len(tokenizer(tail, add_special_tokens=False, verbose=False)["input_ids"])

    def preference(candidate: Ending) -> tuple[bool, int, int]:
        position, mark = candidate
        return not _between_words(text, position), marks.index(mark), abs(position - guess)

    wanted = tail_tokens(ending) + missing
    first, last = max(guess - _REACH, layout.last), min(guess + _REACH, len(text))
    # right after the needle no mark: it would change the needle
    candidates = [
        Ending(position, mark)
        for position in range(first, last + 1)
        for mark in marks
        if position > layout.last or not mark
    ]
    candidates = [
        candidate for candidate in sorted(candidates, key=preference) if candidate not in tried
    ]
    for candidate in candidates:
        if tail_tokens(candidate) == wanted:
            return candidate
    return min(candidates, key=lambda candidate: abs(tail_tokens(candidate) - wanted))


def _between_words(text: str, position: int) -> bool:
    return position == len(text) or (text[position].isspace() and not text[position - 1].isspace())
