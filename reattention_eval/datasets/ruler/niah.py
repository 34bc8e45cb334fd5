"""RULER's needles: in noise lines, in lines like themselves, or in essays."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reattention_eval.datasets.exact_length import Insert, Layout, fit_end
from reattention_eval.datasets.ruler.tasks import RulerTask
from reattention_eval.datasets.ruler.units import Question, most_units
from reattention_eval.datasets.ruler.vocabulary import needle_words
from reattention_eval.datasets.token_index import enough_text
from reattention_eval.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
_NEEDLE = "One of the special magic {value}s for {key} is: {text}."
# forty depths from 0 to 100 %, rounded as the official generator rounds them
_DEPTHS = [round(100 * i / 39) for i in range(40)]
_RESERVE = 64  # tokens of haystack beyond the end, for the search of the exact length


@dataclass(frozen=True)
class _Hidden:
    """The needles of one prompt and what is asked about them."""

    needles: list[str]
    keys: list[str]
    query: str
    answers: list[str]


def niah_question(
    tokenizer: PreTrainedTokenizerBase,
    task: RulerTask,
    budget: int,
    rng: random.Random,
    count: Callable[[Question], int],
    haystack: str,
) -> Question:
    """In essays exactly `budget` tokens, else as many whole lines as fit.

    Essays begin at their beginning, as in the official generator, and needles stand between
    sentences at distinct ones of forty depths; among lines each stands at a line of its own.
    """
    hidden = _hide(task, rng)
    if task.settings["haystack"] == "essay":
        return _in_essays(tokenizer, task, hidden, budget, rng, count, haystack)
    return _in_lines(task, hidden, budget, rng, count)


def _hide(task: RulerTask, rng: random.Random) -> _Hidden:
    ask = task.settings
    keys: list[str] = []
    while len(keys) < ask["num_k"]:
        if (key := _random(ask["keys"], rng)) not in keys:
            keys.append(key)
    values = [[_random(ask["values"], rng) for _ in range(ask["num_v"])] for _ in keys]
    needles = [
        _NEEDLE.format(value=ask["values"], key=key, text=text)
        for key, own in zip(keys, values, strict=True)
        for text in own
    ]
    rng.shuffle(needles)
    asked = rng.sample(range(len(keys)), ask["num_q"])
    names = [keys[i] for i in asked]
    query = ", ".join(names[:-1]) + ", and " + names[-1] if len(names) > 1 else names[0]
    return _Hidden(needles, keys, query, [text for i in asked for text in values[i]])


def _random(what: str, rng: random.Random) -> str:
    """A random key or value; "number" and "numbers" are the same."""
    if what.startswith("number"):
        return str(rng.randint(10**6, 10**7 - 1))
    if what.startswith("uuid"):
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))
    adjectives, nouns = needle_words()
    return f"{rng.choice(adjectives)}-{rng.choice(nouns)}"


def _question(task: RulerTask, hidden: _Hidden, context: str) -> Question:
    words = {"value": task.settings["values"], "query": hidden.query}
    return Question(
        task.template.format(context=context, **words),
        task.answer_prefix.format(**words),
        hidden.answers,
    )


def _in_lines(
    task: RulerTask,
    hidden: _Hidden,
    budget: int,
    rng: random.Random,
    count: Callable[[Question], int],
) -> Question:
    lines: list[str] = []
    places = rng.getrandbits(64)

    def line() -> str:
        if task.settings["haystack"] == "repeat":
            return NOISE
        key = _random(task.settings["keys"], rng)
        while key in hidden.keys:
            key = _random(task.settings["keys"], rng)
        value = task.settings["values"]
        return _NEEDLE.format(value=value, key=key, text=_random(value, rng))

    def make(n: int) -> Question:
        while len(lines) < n:
            lines.append(line())
        own = lines[:n]
        indices = sorted(random.Random(f"{places} {n}").sample(range(n), len(hidden.needles)))
        for index, needle in zip(reversed(indices), hidden.needles, strict=True):
            own.insert(index, needle)
        return _question(task, hidden, "\n".join(own))

    least = len(hidden.needles)
    guess = max(budget // (80 if task.settings["keys"] == "uuids" else 24), least)
    return most_units(make, count, budget, least=least, most=budget, guess=guess)


def _in_essays(
    tokenizer: PreTrainedTokenizerBase,
    task: RulerTask,
    hidden: _Hidden,
    budget: int,
    rng: random.Random,
    count: Callable[[Question], int],
    haystack: str,
) -> Question:
    mark = "\ue000"  # stands for the essays
    bare = _question(task, hidden, mark)
    intro, _, ask = bare.prompt.partition(mark)

    def tokens(prompt: str) -> int:
        return count(bare._replace(prompt=prompt))

    space = budget - tokens(intro + " ".join(hidden.needles) + ask)
    if space < 1:
        raise ConfigError(
            f"{budget} tokens leave no room for the essays of {task.name}: needles and question "
            f"alone take {budget - space}; ask for a longer length."
        )
    index = enough_text(tokenizer, haystack, space + _RESERVE)
    end = index.shift(0, space)
    # needles keep off the very end, which moves until the length is exact
    reach = index.shift(end, -_RESERVE)
    shares = sorted(rng.sample(_DEPTHS, len(hidden.needles)))
    inserts = [
        Insert(index.sentence_at(share / 100, 0, reach), f"{needle} ")
        for share, needle in zip(shares, hidden.needles, strict=True)
    ]
    prompt, _ = fit_end(tokenizer, index, Layout(intro, 0, inserts, ask), end, budget, tokens)
    return bare._replace(prompt=prompt)
