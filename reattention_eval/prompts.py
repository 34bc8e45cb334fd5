"""From a prompt's text to the token ids that are run: chat template, BOS once, middle truncation.

Truncation follows LongBench (Bai et al., 2023, arXiv 2308.14508): the first half and the last half
of the prompt's own tokens stay, so instructions at both ends survive.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reattention_eval.errors import ConfigError
from reattention_eval.unicode_text import require_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from reattention_eval.shared_tokens import SharedTokens

# Stands for the user's text while the template is rendered; private-use characters, so that no
# template trims or escapes it.
_PLACE = "\ue000\ue001\ue002"
_BEFORE = 2000  # characters before a question that are tokenised with it, to find where it begins


@dataclass(frozen=True)
class PreparedPrompt:
    """The ids of one prompt and what was done to get them.

    `sha256` is taken over the ids as little-endian 32-bit integers; `n_cut` counts the tokens
    removed from the middle of the user's text; `document_tokens` those that stand before the
    question, where it is known.
    """

    input_ids: list[int]
    n_cut: int
    sha256: str
    document_tokens: int | None = None

    @property
    def n_tokens(self) -> int:
        return len(self.input_ids)

    @property
    def head(self) -> list[int]:
        """The first 16 ids."""
        return self.input_ids[:16]

    @property
    def tail(self) -> list[int]:
        """The last 16 ids."""
        return self.input_ids[-16:]


@dataclass(frozen=True)
class _Rendered:
    """The string that is tokenised; `start:end` is the user's text in it."""

    text: str
    start: int
    end: int


def prepare_prompt(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    chat_template: bool = False,
    system: str | None = None,
    answer_prefix: str = "",
    max_tokens: int | None = None,
    shared: SharedTokens | None = None,
    question: str | None = None,
) -> PreparedPrompt:
    """Token ids of `prompt`, at most `max_tokens` of them.

    Args:
        chat_template: put the prompt in a user turn and open the assistant's turn.
        system: the system turn; needs `chat_template`.
        answer_prefix: the words with which the answer begins, after everything else.
        max_tokens: cut the middle of the user's text until exactly this many tokens are left;
            template and `answer_prefix` stay whole.
        shared: tokenises in the tokenizer's place where nothing is to be cut.
        question: the end of `prompt`, behind the document that it asks about; "" where the
            document is all of it. A token that holds of both is the question's.

    The tokens that the tokenizer itself puts in front of a text (BOS, where it has that rule) stand
    there once, whether the tokenizer or the template brings them.

    Raises:
        ConfigError: empty prompt, a question that is not its end, no chat template to use, a
            template that refuses the turns, `max_tokens` too small for the template, or a slow
            tokenizer where a cut is needed.
        DataError: half a character (`require_text`).
    """
    if not prompt.strip():
        raise ConfigError(
            "the prompt is empty, so there is nothing to answer; "
            "check the column of the dataset that the prompt is made from."
        )
    require_text(f"{system or ''}{prompt}{answer_prefix}", "the prompt")
    if question is not None and not prompt.endswith(question):
        raise ConfigError(
            f"the prompt does not end with its question {question[-80:]!r}; a row's `question` is "
            "the end of its `prompt`, behind the document."
        )
    if max_tokens is not None and max_tokens < 1:
        raise ConfigError(f"max_tokens is {max_tokens}; give a positive number of tokens, or None.")
    if chat_template:
        rendered = _render_chat(tokenizer, prompt, system, answer_prefix)
    else:
        if system is not None:
            raise ConfigError(
                "a system message was given but the chat template is off; "
                "set chat_template=True or put the message in the prompt."
            )
        rendered = _Rendered(prompt + answer_prefix, 0, len(prompt))

    ids: list[int]
    if shared is not None and max_tokens is None:
        encoding, ids = None, shared.ids(rendered.text)
    else:
        encoding = tokenizer(rendered.text, add_special_tokens=False, verbose=False)
        ids = list(encoding["input_ids"])
    prefix = special_prefix(tokenizer)
    if ids[: len(prefix)] == prefix:
        prefix = []
    n_total = len(prefix) + len(ids)
    n_cut = 0
    document = None if question is None else _document_tokens(tokenizer, rendered, question, ids)
    if max_tokens is not None and n_total > max_tokens:
        n_cut = n_total - max_tokens
        first, last = _user_tokens(tokenizer, encoding, rendered, len(ids))
        kept = last - first - n_cut
        if kept < 1:
            raise ConfigError(
                f"max_tokens {max_tokens} leaves no room for the prompt: the template and the "
                f"begun answer alone take {n_total - (last - first)} tokens; "
                "raise max_seq_len or lower max_out_len."
            )
        head = first + (kept + 1) // 2
        ids = ids[:head] + ids[head + n_cut :]
        if document is not None:
            document = max(min(document, head), document - n_cut)
    ids = prefix + ids
    document = None if document is None else len(prefix) + document
    return PreparedPrompt(ids, n_cut, _digest(ids), document)


def _document_tokens(
    tokenizer: PreTrainedTokenizerBase, rendered: _Rendered, question: str, ids: list[int]
) -> int | None:
    """How many of `ids` lie wholly before the question; None where that cannot be told.

    The end of the text is tokenised by itself, from further and further before the question until
    its tokens are those of the whole.
    """
    shown = rendered.text[: rendered.end]
    asked = next((q for q in (question, question.rstrip()) if shown.endswith(q)), None)
    if asked is None or not tokenizer.is_fast:
        return None
    at, reach = len(shown) - len(asked), _BEFORE
    while True:
        begin = max(0, at - reach)
        text = rendered.text[begin:]
        found = tokenizer(text, add_special_tokens=False, verbose=False)
        own = list(found["input_ids"])
        behind = len(own) - bisect_right(_Edges(found, len(own), 1), at - begin)
        # one token more than are the question's has to be the same, so that the seam is none
        same = behind + 1
        if begin == 0 or (same <= len(own) and own[-same:] == ids[-same:]):
            return len(ids) - behind
        reach *= 8


def _render_chat(
    tokenizer: PreTrainedTokenizerBase, prompt: str, system: str | None, answer_prefix: str
) -> _Rendered:
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            f"the tokenizer {_name(tokenizer)} has no chat template; "
            "set chat_template=False, or use the chat version of the model."
        )
    before, after = chat_shell(tokenizer, system)
    text = _apply_template(tokenizer, prompt, system)
    end = len(text) - len(after)
    fits = text.startswith(before) and text.endswith(after) and end > len(before)
    # templates may trim the user's text, and nothing else of it
    if not fits or text[len(before) : end].strip() != prompt.strip():
        raise _shown_otherwise(tokenizer)
    return _Rendered(text + answer_prefix, len(before), end)


def chat_shell(tokenizer: PreTrainedTokenizerBase, system: str | None = None) -> tuple[str, str]:
    """What the chat template puts before and behind the user's text, the assistant's turn opened.

    Raises:
        ConfigError: it refuses the turns, or does not show the text exactly once.
    """
    before, place, after = _apply_template(tokenizer, _PLACE, system).partition(_PLACE)
    if not place or _PLACE in after:
        raise _shown_otherwise(tokenizer)
    return before, after


def _shown_otherwise(tokenizer: PreTrainedTokenizerBase) -> ConfigError:
    return ConfigError(
        f"the chat template of {_name(tokenizer)} does not put the user's text into the prompt "
        "exactly once, and whole; set chat_template=False and write the turns into the prompt."
    )


def _apply_template(tokenizer: PreTrainedTokenizerBase, prompt: str, system: str | None) -> str:
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": prompt})
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        cure = "leave the system message out" if system is not None else "set chat_template=False"
        raise ConfigError(
            f"the chat template of {_name(tokenizer)} refuses the turns ({error}); {cure}."
        ) from error
    return str(text)


def special_prefix(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that the tokenizer's own rule puts in front of a text, often [BOS] or nothing."""
    plain: list[int] = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    ruled: list[int] = list(tokenizer("a", add_special_tokens=True)["input_ids"])
    for start in range(len(ruled) - len(plain) + 1):
        if ruled[start : start + len(plain)] == plain:
            return ruled[:start]
    return []


def _user_tokens(
    tokenizer: PreTrainedTokenizerBase, encoding: Any, rendered: _Rendered, n_ids: int
) -> tuple[int, int]:
    """The tokens [first, last) that lie wholly inside the user's text."""
    if not tokenizer.is_fast:
        raise ConfigError(
            f"the prompt must be cut but {_name(tokenizer)} is a slow tokenizer, which cannot say "
            "where its tokens lie; load it with use_fast=True, or raise max_seq_len."
        )
    first = bisect_left(_Edges(encoding, n_ids, 0), rendered.start)
    last = bisect_right(_Edges(encoding, n_ids, 1), rendered.end)
    return first, max(first, last)


class _Edges(Sequence[int]):
    """Where each token starts (side 0) or ends (1) in the text; asked one by one, because a list of
    millions of pairs costs more than the ids."""

    def __init__(self, encoding: Any, n_ids: int, side: int) -> None:
        self._encoding, self._n_ids, self._side = encoding, n_ids, side

    def __len__(self) -> int:
        return self._n_ids

    def __getitem__(self, index: Any) -> Any:
        return self._encoding.token_to_chars(index)[self._side]


def _digest(ids: list[int]) -> str:
    return hashlib.sha256(np.asarray(ids, dtype="<i4").tobytes()).hexdigest()


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)
