"""Needle-In-A-Haystack prompts of an exact length in the model's own tokens."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reattention_eval.datasets.exact_length import Insert, Layout, fit_end
from reattention_eval.datasets.haystack import Haystack
from reattention_eval.datasets.needle_styles import Needle, make_needle
from reattention_eval.datasets.token_index import HaystackIndex, enough_text
from reattention_eval.errors import ConfigError
from reattention_eval.prompts import prepare_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# tokens of haystack kept in reserve after a stretch, for the search of its exact end
_RESERVE = 64


@dataclass(frozen=True)
class NeedleSample:
    """One prompt with a needle in it.

    `prompt` goes into `prepare_prompt` with `answer_prefix` and the same chat_template setting;
    `length` tokens come out. `depth` is in percent of the haystack's tokens before the needle.
    """

    prompt: str
    answer_prefix: str
    answer: str
    length: int
    depth: float
    repeat: int
    key: str
    style: str
    reference: str
    question: str  # the end of the prompt, behind the haystack

    @property
    def continuation(self) -> str:
        """The text a right model would go on with, as it follows the prompt: for the answer NLL."""
        return f" {self.answer}" if self.answer_prefix else self.answer


def needle_samples(
    tokenizer: PreTrainedTokenizerBase,
    haystack: Haystack | str | os.PathLike[str],
    *,
    length: int,
    depths: Sequence[float],
    repeats: int,
    seed: int = 0,
    chat_template: bool = False,
    style: str = "magic_number",
) -> list[NeedleSample]:
    """`repeats` x `depths` samples, repeat by repeat, each exactly `length` tokens long.

    One (seed, repeat) gives the same stretch of the haystack and the same needle at every depth, so
    prompts of one repeat are equal up to the shallower needle. The needle stands at the sentence
    boundary nearest to its depth.

    Args:
        length: tokens of the whole prompt, with template, question and begun answer.
        depths: percent, 0 (first thing in the haystack) to 100 (after its last sentence).

    Raises:
        ConfigError: unknown style, depth outside 0..100, length too small for the question, a slow
            tokenizer, or a chat template asked of a tokenizer that has none.
        DataError: the haystack has fewer tokens than the length needs.
    """
    check_asked(tokenizer, length, depths, repeats)
    source = haystack if isinstance(haystack, Haystack) else os.fspath(haystack)
    samples = []
    for repeat in range(repeats):
        needle = make_needle(style, seed, repeat, "")
        prefix = needle.answer_prefix
        if prefix and not chat_template:
            prefix = f" {prefix}"

        def count(prompt: str, prefix: str = prefix) -> int:
            return prepare_prompt(
                tokenizer, prompt, chat_template=chat_template, answer_prefix=prefix
            ).n_tokens

        fixed = count(needle.bare)
        index, start, space = stretch(tokenizer, source, length, fixed, seed, repeat)
        needle = make_needle(style, seed, repeat, index.text)
        end = index.shift(start, space)
        for depth in depths:
            layout = _layout(index, needle, start, end, depth)
            prompt, end = fit_end(tokenizer, index, layout, end, length, count)
            samples.append(
                NeedleSample(
                    prompt=prompt,
                    answer_prefix=prefix,
                    answer=needle.answer,
                    length=length,
                    depth=float(depth),
                    repeat=repeat,
                    key=needle.key,
                    style=style,
                    reference=needle.reference,
                    question=needle.question,
                )
            )
    return samples


def check_asked(
    tokenizer: PreTrainedTokenizerBase, length: int, depths: Sequence[float], repeats: int
) -> None:
    """Raise ConfigError if no prompts can be made of this."""
    if length < 1 or repeats < 1 or not depths:
        raise ConfigError(
            f"nothing to make: length {length}, {len(depths)} depths, {repeats} repeats; "
            "each must be at least 1."
        )
    if outside := [depth for depth in depths if not 0 <= depth <= 100]:
        raise ConfigError(f"depths are percent from 0 to 100; found {outside[0]}.")
    if twice := [depth for i, depth in enumerate(depths) if depth in depths[:i]]:
        raise ConfigError(
            f"the depth {twice[0]:g} is listed twice, and its prompts would be counted twice; "
            "remove one, or ask for more repeats."
        )
    if not tokenizer.is_fast:
        raise ConfigError(
            "exact lengths need a fast tokenizer, which says where its tokens lie; "
            "load it with use_fast=True."
        )


def haystack_space(length: int, fixed: int) -> int:
    """Tokens left for the haystack beside `fixed` others; ConfigError if there are none."""
    if length > fixed:
        return length - fixed
    raise ConfigError(
        f"a length of {length} tokens leaves no room for the haystack: needle, question "
        f"and template alone take {fixed}; ask for more."
    )


def stretch(
    tokenizer: PreTrainedTokenizerBase,
    source: Haystack | str,
    length: int,
    fixed: int,
    seed: int,
    repeat: int,
) -> tuple[HaystackIndex, int, int]:
    """Haystack, start and tokens of the stretch that (`seed`, `repeat`) puts in a prompt.

    It begins with a sentence. `fixed` is the tokens of the prompt without it.

    Raises:
        ConfigError: no room.
        DataError: the haystack is too small.
    """
    space = haystack_space(length, fixed)
    index = enough_text(tokenizer, source, space + _RESERVE)
    beginnings = index.sentence_starts_before(index.n_tokens - space - _RESERVE)
    start = beginnings[random.Random(f"stretch {seed} {repeat}").randrange(len(beginnings))]
    return index, int(start), space


def _layout(index: HaystackIndex, needle: Needle, start: int, end: int, depth: float) -> Layout:
    position = at_depth(index, start, end, depth)
    return Layout(needle.intro, start, [Insert(position, f"{needle.text} ")], needle.question)


def at_depth(index: HaystackIndex, start: int, end: int, depth: float) -> int:
    """The sentence boundary nearest to `depth` percent of the tokens between start and end."""
    wanted = index.shift(start, round(index.tokens_between(start, end) * depth / 100))
    return index.nearest_sentence(wanted, start, end)
