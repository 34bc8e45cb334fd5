"""Several needles in one haystack and one question for all: NeedleBench's parallel retrieval."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reattention_eval.datasets.exact_length import Insert, Layout, fit_end
from reattention_eval.datasets.haystack import Haystack
from reattention_eval.datasets.needle import at_depth, check_asked, stretch
from reattention_eval.datasets.needle_facts import INTRO, choose_facts, joint_question
from reattention_eval.prompts import prepare_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ParallelSample:
    """One prompt of exactly `length` tokens, with a needle at each of `depths` (percent).

    `phrases[i]` is what the needle at `depths[i]` hides; `question` is the end of the prompt.
    """

    prompt: str
    phrases: list[str]
    depths: list[float]
    length: int
    repeat: int
    question: str

    @property
    def reference(self) -> str:
        """Phrases and depths in NeedleBench's form: "a*b#0*50"."""
        return "*".join(self.phrases) + "#" + "*".join(f"{depth:g}" for depth in self.depths)


def parallel_samples(
    tokenizer: PreTrainedTokenizerBase,
    haystack: Haystack | str | os.PathLike[str],
    *,
    length: int,
    depths: Sequence[float],
    repeats: int,
    seed: int = 0,
    chat_template: bool = False,
) -> list[ParallelSample]:
    """`repeats` prompts with the same needles, in another order and stretch of the haystack each.

    As in OpenCompass's needlebench/parallel.py, every needle has a line of its own; it stands at
    the sentence boundary nearest to its depth, and lengths are the model's own tokens.

    Raises:
        ConfigError, DataError: as `needle_samples`; DataError also for more depths than needles.
    """
    check_asked(tokenizer, length, depths, repeats)
    source = haystack if isinstance(haystack, Haystack) else os.fspath(haystack)
    depths = sorted(float(depth) for depth in depths)
    needles = choose_facts(len(depths), seed)

    def count(prompt: str) -> int:
        return prepare_prompt(tokenizer, prompt, chat_template=chat_template).n_tokens

    samples = []
    for repeat in range(repeats):
        facts = random.Random(f"order {seed} {repeat}").sample(needles, len(needles))
        lines = [f"\n{fact.needle}\n" for fact in facts]
        question = joint_question(facts)
        fixed = count(INTRO + "".join(lines) + question)
        index, start, space = stretch(tokenizer, source, length, fixed, seed, repeat)
        end = index.shift(start, space)
        inserts = [
            Insert(at_depth(index, start, end, depth), line)
            for depth, line in zip(depths, lines, strict=True)
        ]
        layout = Layout(INTRO, start, inserts, question)
        prompt, _ = fit_end(tokenizer, index, layout, end, length, count)
        samples.append(
            ParallelSample(
                prompt, [fact.phrase for fact in facts], depths, length, repeat, question
            )
        )
    return samples
