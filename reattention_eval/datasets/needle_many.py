"""A needle at every depth of one haystack, asked for one at a time: the many-depths form."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from reattention_eval.datasets.exact_length import Insert, Layout, fit_end
from reattention_eval.datasets.haystack import Haystack
from reattention_eval.datasets.needle import NeedleSample, at_depth, check_asked, stretch
from reattention_eval.datasets.needle_styles import Needle, kinds_of_numbers
from reattention_eval.errors import ConfigError
from reattention_eval.prompts import prepare_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MANY_DEPTHS = "many_depths"


def many_depths_samples(
    tokenizer: PreTrainedTokenizerBase,
    haystack: Haystack | str | os.PathLike[str],
    *,
    length: int,
    depths: Sequence[float],
    repeats: int,
    seed: int = 0,
    chat_template: bool = False,
) -> list[NeedleSample]:
    """`repeats` haystacks x `depths` questions, haystack by haystack, from the shallowest depth on.

    A haystack holds a number of another kind at each of `depths`. The prompts of a haystack are
    equal up to their questions, so that one prefill serves them all. The other needles distract,
    which one needle in a haystack has nothing of: the figures of the two forms do not compare.

    The longest prompt of a haystack has `length` tokens, the others as many fewer as their
    questions are shorter. A needle stands at the sentence boundary nearest to its depth.

    Raises:
        ConfigError: as `needle_samples`; the same depth twice; needles without text between them.
        DataError: the haystack has fewer tokens than the length needs.
    """
    check_asked(tokenizer, length, depths, repeats)
    depths = in_order(depths)
    source = haystack if isinstance(haystack, Haystack) else os.fspath(haystack)
    samples = []
    for repeat in range(repeats):
        needles = kinds_of_numbers(len(depths), seed, repeat, "")
        longest = max(needles, key=lambda n: _tokens(tokenizer, n, needles, chat_template))
        fixed = _tokens(tokenizer, longest, needles, chat_template)
        index, start, space = stretch(tokenizer, source, length, fixed, seed, repeat)
        needles = kinds_of_numbers(len(depths), seed, repeat, index.text)
        end = index.shift(start, space)
        inserts = [
            Insert(at_depth(index, start, end, depth), f"{needle.text} ")
            for depth, needle in zip(depths, needles, strict=True)
        ]
        layout = Layout(longest.intro, start, inserts, longest.question)

        def count(prompt: str, begun: str = _begun(longest, chat_template)) -> int:
            return prepare_prompt(
                tokenizer, prompt, chat_template=chat_template, answer_prefix=begun
            ).n_tokens

        prompt, _ = fit_end(tokenizer, index, layout, end, length, count)
        shared = prompt.removesuffix(longest.question)
        _check_text_between(shared, needles, depths, length)
        samples += [
            NeedleSample(
                prompt=shared + needle.question,
                answer_prefix=_begun(needle, chat_template),
                answer=needle.answer,
                length=length,
                depth=depth,
                repeat=repeat,
                key=needle.key,
                style=MANY_DEPTHS,
                reference=needle.reference,
                question=needle.question,
            )
            for depth, needle in zip(depths, needles, strict=True)
        ]
    return samples


def in_order(depths: Sequence[float]) -> list[float]:
    """Ascending; ConfigError for the same depth twice."""
    ordered = sorted(float(depth) for depth in depths)
    if same := [deep for deep, deeper in pairwise(ordered) if deep == deeper]:
        raise ConfigError(
            f"depth {same[0]:g} stands twice among the depths of one haystack; ask for each once."
        )
    return ordered


def fixed_tokens(
    tokenizer: PreTrainedTokenizerBase, depths: Sequence[float], chat_template: bool
) -> int:
    """Tokens of the longest prompt of the first haystack without its haystack."""
    needles = kinds_of_numbers(len(in_order(depths)), 0, 0, "")
    return max(_tokens(tokenizer, needle, needles, chat_template) for needle in needles)


def _tokens(
    tokenizer: PreTrainedTokenizerBase,
    asked: Needle,
    needles: Sequence[Needle],
    chat_template: bool,
) -> int:
    """Tokens of all but the haystack where `asked` is the question."""
    hidden = "".join(f"{needle.text} " for needle in needles).rstrip()
    return prepare_prompt(
        tokenizer,
        asked.intro + hidden + asked.question,
        chat_template=chat_template,
        answer_prefix=_begun(asked, chat_template),
    ).n_tokens


def _begun(needle: Needle, chat_template: bool) -> str:
    return needle.answer_prefix if chat_template else f" {needle.answer_prefix}"


def _check_text_between(
    text: str, needles: Sequence[Needle], depths: Sequence[float], length: int
) -> None:
    """A haystack too short for its needles, or with too few sentences, puts them side by side."""
    places = [text.index(needle.text) for needle in needles]
    for i, (place, following) in enumerate(pairwise(places)):
        if not text[place + len(needles[i].text) : following].strip():
            raise ConfigError(
                f"at {length} tokens the needles at depths {depths[i]:g} and {depths[i + 1]:g} "
                "stand side by side, with no sentence between them; ask for a longer prompt or "
                "fewer depths."
            )
