"""`ruler_samples`: prompts of any of RULER's tasks, of a length, for any tokenizer."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reattention_eval.datasets.data_dir import data_file
from reattention_eval.datasets.haystack import check_haystack
from reattention_eval.datasets.ruler.niah import niah_question
from reattention_eval.datasets.ruler.qa import qa_question
from reattention_eval.datasets.ruler.tasks import RULER_TASKS, RulerTask
from reattention_eval.datasets.ruler.units import Question
from reattention_eval.datasets.ruler.variables import variables_question
from reattention_eval.datasets.ruler.word_lists import (
    common_words_question,
    frequent_words_question,
)
from reattention_eval.errors import ConfigError
from reattention_eval.prompts import prepare_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class RulerSample:
    """One prompt of a RULER task.

    `prompt` goes into `prepare_prompt` with `answer_prefix` and the same chat_template setting;
    `n_tokens` come out. `answers` are those that the scorer looks for.
    """

    prompt: str
    answer_prefix: str
    answers: list[str]
    task: str
    length: int
    index: int
    n_tokens: int
    question: str  # the end of the prompt, behind the context


def ruler_samples(
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    *,
    length: int,
    samples: int,
    seed: int = 42,
    chat_template: bool = False,
    haystack: str = "essays",
) -> list[RulerSample]:
    """`samples` prompts of `task`; sample i is the same however many are asked for.

    As in RULER, `length` is prompt and new tokens together (`RULER_TASKS[task].max_out_len`), in
    the model's own tokens, template and begun answer included. Tasks in essays fill it exactly;
    the others hold as many whole units as fit: noise or needle lines (niah_single_1, multikey_2,
    multikey_3, vt), three entries of a word (cwe), a coded word (fwe), documents (qa_1, qa_2).

    Args:
        haystack: the text of the essay tasks, see `load_haystack`; "long" beyond 654,000 tokens.

    Raises:
        ConfigError: no such task, or a length that the task's question alone fills.
        DataError: data are missing or too few for the length.
    """
    asked = ruler_task(task)
    if samples < 1:
        raise ConfigError(f"nothing to make: {samples} samples of {task}; ask for at least 1.")
    if not tokenizer.is_fast:
        raise ConfigError(
            "RULER's lengths need a fast tokenizer, which says where its tokens lie; "
            "load it with use_fast=True."
        )

    def shown(question: Question) -> Question:
        """In a chat turn the begun answer does not start with a blank."""
        prefix = question.answer_prefix
        return question._replace(answer_prefix=prefix.lstrip() if chat_template else prefix)

    def count(question: Question) -> int:
        return prepare_prompt(
            tokenizer,
            question.prompt,
            chat_template=chat_template,
            answer_prefix=shown(question).answer_prefix,
        ).n_tokens

    budget = length - asked.max_out_len
    out = []
    for index in range(samples):
        rng = random.Random(f"{seed} {task} {length} {index}")
        if asked.kind == "niah":
            question = niah_question(tokenizer, asked, budget, rng, count, haystack)
        elif asked.kind == "variables":
            question = variables_question(asked, budget, rng, count)
        elif asked.kind == "common_words":
            question = common_words_question(asked, length, budget, rng, count)
        elif asked.kind == "frequent_words":
            question = frequent_words_question(tokenizer, asked, length, budget, rng, count)
        else:
            question = qa_question(tokenizer, asked, index, budget, rng, count)
        prompt, prefix, answers = shown(question)
        exact = asked.settings.get("haystack") == "essay"
        tokens = budget if exact else count(question)
        made = RulerSample(
            prompt, prefix, answers, task, length, index, tokens, asked.question(prompt)
        )
        out.append(made)
    return out


def ruler_task(name: str) -> RulerTask:
    """The task of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in RULER_TASKS:
        raise ConfigError(f"RULER has no task {name!r}; choose from {', '.join(RULER_TASKS)}.")
    return RULER_TASKS[name]


def check_ruler_data(task: str, length: int, haystack: str = "essays") -> None:
    """Nothing if all that the task needs is on this machine.

    Raises:
        ConfigError: there is no such task.
        DataError: a file is missing; the sentence names the command that fetches it.
    """
    settings = ruler_task(task).settings
    if settings.get("haystack") == "essay":
        check_haystack(haystack, length)
    if "data" in settings:
        data_file("ruler", f"{settings['data']}.json")
