"""Small rules between text and token ids at the end of a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

_AROUND_A_WORD = 16  # tokens


def cut_at_stop(text: str, stop_words: Sequence[str]) -> str:
    """`text` up to the first stop word behind the line breaks that it begins with.

    An answer that starts on a new line is not over yet: LongBench, which ends answers at a line
    break, scores the first line that holds text.
    """
    ends = [at for at in (_find(text, word) for word in stop_words if word) if at >= 0]
    return text[: min(ends)] if ends else text


def stop_rule(tokenizer: Any, stop_words: Sequence[str]) -> Callable[[list[int]], bool] | None:
    """Says of a row's new tokens whether a stop word has appeared; None without stop words."""
    words = [word for word in stop_words if word]
    if not words:
        return None
    # a token is at least a byte; some more, since a text's spaces depend on what stands around them
    window = max(len(word.encode()) for word in words) + _AROUND_A_WORD

    def text_of(tokens: list[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=False))

    def stopped(new_tokens: list[int]) -> bool:
        """Of all tokens where there are few or the last ones hold a word: the time of a token does
        not grow with the answer."""
        if len(new_tokens) > window and text_of(new_tokens[:window]).strip("\n"):
            end = text_of(new_tokens[-window:])
            if not any(word in end for word in words):
                return False
        text = text_of(new_tokens)
        return any(_find(text, word) >= 0 for word in words)

    return stopped


def _find(text: str, word: str) -> int:
    return text.find(word, len(text) - len(text.lstrip("\n")))


def cut_at_token(tokens: Sequence[int], stop_token_ids: Sequence[int]) -> list[int]:
    """The tokens before the first stop token; what follows it is padding."""
    stops = set(stop_token_ids)
    for end, token in enumerate(tokens):
        if token in stops:
            return list(tokens[:end])
    return list(tokens)


def answer_token_ids(tokenizer: Any, answer_prefix: str, answer: str) -> list[int]:
    """Ids of `answer` as the continuation of `answer_prefix`.

    Tokenised together and cut, because tokenizers that begin every text with a space mark would
    put one in front of an answer tokenised alone. A blank joins prefix and answer where neither
    has one.
    """
    context = answer_prefix or "\n"
    joined = bool(answer_prefix) and not answer_prefix[-1].isspace() and not answer[:1].isspace()
    whole = tokenizer(context + (" " if joined else "") + answer, add_special_tokens=False)
    start = tokenizer(context, add_special_tokens=False)["input_ids"]
    ids = list(whole["input_ids"])
    if ids[: len(start)] == list(start):
        return ids[len(start) :]
    return list(tokenizer((" " if joined else "") + answer, add_special_tokens=False)["input_ids"])


def cut_beginning(tokenizer: Any, ids: Sequence[int], limit: int | None) -> list[int]:
    """The last `limit` tokens of a text, behind those that the tokenizer puts in front of any."""
    if limit is None or len(ids) <= limit:
        return list(ids)
    empty = list(tokenizer("", verbose=False)["input_ids"])
    front = next((i for i, own in enumerate(empty) if own != ids[i]), len(empty))
    return [*ids[:front], *ids[len(ids) - limit + front :]]
