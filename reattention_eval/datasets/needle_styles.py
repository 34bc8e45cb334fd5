"""The needles: what is hidden, how it is asked for, how the answer begins."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from reattention_eval.datasets.needle_facts import INTRO, needle_facts, one_question
from reattention_eval.errors import ConfigError


@dataclass(frozen=True)
class Needle:
    """One needle. The prompt is `intro` + haystack with `text` inside + `question`."""

    intro: str
    text: str
    question: str
    answer_prefix: str
    answer: str
    key: str
    reference: str

    @property
    def bare(self) -> str:
        """The prompt without its haystack."""
        return self.intro + self.text + self.question


def magic_number(seed: int, repeat: int, haystack: str) -> Needle:
    """RULER's single needle with a seven-digit number (Hsieh et al., 2024, arXiv 2404.06654)."""
    key = _key(seed, repeat)
    value = _digits(7, seed, repeat, haystack)
    return Needle(
        intro=(
            "A special magic number is hidden within the following text. Make sure to memorize it. "
            "I will quiz you about the number afterwards.\n"
        ),
        text=f"One of the special magic numbers for {key} is: {value}.",
        question=f"\nWhat is the special magic number for {key} mentioned in the provided text?",
        answer_prefix=f"The special magic number for {key} mentioned in the provided text is",
        answer=value,
        key=key,
        reference=value,
    )


def kinds_of_numbers(n: int, seed: int, repeat: int, haystack: str) -> list[Needle]:
    """`n` needles for one haystack: a seven-digit number of another kind and thing each.

    They are as unlike as they can be, up to as many as there are kinds (20) and first digits (9),
    so that to find one is what is asked, and not to tell it from the others, as in RULER's
    niah_multikey.
    """
    kinds, things = _KINDS.split(), _NOUNS.split()
    rng = random.Random(f"kinds {seed} {repeat}")
    rng.shuffle(kinds)
    rng.shuffle(things)
    needles = []
    for number, value in enumerate(_unlike_numbers(n, rng, haystack)):
        key = f"{kinds[number % len(kinds)]} number of the {things[number % len(things)]}"
        needles.append(
            Needle(
                intro=(
                    "Some numbers are hidden within the following text. Make sure to memorize "
                    "them. I will quiz you about them afterwards.\n"
                ),
                text=f"The {key} is {value}.",
                question=f"\nWhat is the {key} mentioned in the provided text?",
                answer_prefix=f"The {key} mentioned in the provided text is",
                answer=value,
                key=key,
                reference=value,
            )
        )
    return needles


def passkey(seed: int, repeat: int, haystack: str) -> Needle:
    """A five-digit pass key (Mohtashami and Jaggi, 2023, arXiv 2305.16300)."""
    value = _digits(5, seed, repeat, haystack)
    return Needle(
        intro=(
            "There is an important info hidden inside a lot of irrelevant text. Find it and "
            "memorize it. I will quiz you about the important information there.\n"
        ),
        text=f"The pass key is {value}. Remember it. {value} is the pass key.",
        question="\nWhat is the pass key? Answer with the number only.",
        answer_prefix="",
        answer=value,
        key="pass key",
        reference=value,
    )


def sentence(seed: int, repeat: int, haystack: str) -> Needle:
    """The classic needle, asked as NeedleBench does (Li et al., 2024, arXiv 2407.11963).

    Its reference is "needle*key phrase", NeedleBench's own form. `seed` and `repeat` change only
    the stretch of the haystack.
    """
    begun = "The best thing to do in San Francisco is"
    key = "eat a sandwich and sit in Dolores Park on a sunny day"
    needle = f"{begun} {key}."
    return Needle(
        intro=INTRO,
        text=needle,
        question=(
            "\n\nNow, the question is: What is the best thing to do in San Francisco? Before "
            "answering, please consider what in the document is most relevant to this question."
        ),
        answer_prefix=begun,
        answer=f"{key}.",
        key=key,
        reference=f"{needle}*{key}",
    )


def needlebench(seed: int, repeat: int, haystack: str) -> Needle:
    """One of NeedleBench's needles, another for each repeat, asked in its words.

    Li et al., 2024, arXiv 2407.11963; the test of ReAttention's paper.
    """
    known = needle_facts()
    fact = known[random.Random(f"fact {seed} {repeat}").randrange(len(known))]
    return Needle(
        intro=INTRO,
        text=fact.needle,
        question=one_question(fact),
        answer_prefix="",
        answer=fact.phrase,
        key=fact.phrase,
        reference=f"{fact.needle}*{fact.phrase}",
    )


STYLES: dict[str, Callable[[int, int, str], Needle]] = {
    "magic_number": magic_number,
    "passkey": passkey,
    "sentence": sentence,
    "needlebench": needlebench,
}


def make_needle(style: str, seed: int, repeat: int, haystack: str) -> Needle:
    """The needle that (`seed`, `repeat`) gives; its number never stands in the haystack.

    Raises:
        ConfigError: unknown style.
    """
    if style not in STYLES:
        raise ConfigError(f"there is no needle style {style!r}; choose from {', '.join(STYLES)}.")
    return STYLES[style](seed, repeat, haystack)


def _key(seed: int, repeat: int) -> str:
    """Walks all pairs of words in seeded order, so no two repeats share a key."""
    adjectives, nouns = _ADJECTIVES.split(), _NOUNS.split()
    n = len(adjectives) * len(nouns)
    rng = random.Random(f"key {seed}")
    start, stride = rng.randrange(n), rng.randrange(1, n)
    while math.gcd(stride, n) != 1:
        stride = rng.randrange(1, n)
    adjective, noun = divmod((start + repeat * stride) % n, len(nouns))
    return f"{adjectives[adjective]}-{nouns[noun]}"


def _digits(n: int, seed: int, repeat: int, haystack: str) -> str:
    rng = random.Random(f"value {n} {seed} {repeat}")
    while (value := str(rng.randrange(10 ** (n - 1), 10**n))) in haystack:
        pass
    return value


def _unlike_numbers(n: int, rng: random.Random, haystack: str) -> list[str]:
    """`n` different ones of seven digits that no haystack holds; of nine no two begin alike."""
    found: list[str] = []
    firsts = rng.sample(range(1, 10), 9)
    while len(found) < n:
        value = str(firsts[len(found) % 9] * 10**6 + rng.randrange(10**6))
        if value not in found and value not in haystack:
            found.append(value)
    return found


_KINDS = """
    account batch catalogue contract customer employee flight invoice licence locker lottery
    membership order passport policy registration room serial telephone ticket
"""
_ADJECTIVES = """
    amber ancient bashful blue brave breezy bright calm careful cheerful clever crisp curious
    daring dusty eager early faint fancy fierce foggy gentle giant golden grand happy hasty
    hidden hollow honest icy idle jolly keen kind late lively lucky mellow mighty modest narrow
    noble odd patient plain polite proud quick quiet rapid rare rusty salty shy silent silver
    sleepy smooth soft spicy steady sturdy sunny swift tall tender tidy tiny vast vivid wandering
    warm wild wise witty woolly young zesty
"""
_NOUNS = """
    acorn anchor apple arrow badger barrel basket beacon bell bicycle blanket bottle bridge
    bucket button candle canyon carpet castle cedar chimney clock cloud compass copper cottage
    cradle desert dolphin donkey drum eagle ember falcon feather ferry fiddle forest fountain
    garden glacier hammer harbor hazel island jacket kettle ladder lantern lemon lizard magnet
    maple marble meadow mirror needle oak ocean olive orchard otter owl parrot pebble pencil
    pepper piano planet pocket pond raven ribbon river saddle sailor shell spoon table
    thimble timber tower tulip turtle umbrella valley violin walnut window
"""
