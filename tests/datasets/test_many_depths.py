"""All needles in one haystack, asked for one at a time."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from real_model import real_tokenizer
from test_needle import HAYSTACK, count, prose, unigram_tokenizer
from tiny_tokenizers import tiny_tokenizer

from reattention_eval.benchmarks.needle import check_needles
from reattention_eval.datasets import exact_length, many_depths_samples, token_index
from reattention_eval.datasets.haystack import Haystack
from reattention_eval.datasets.token_index import index_haystack
from reattention_eval.errors import ConfigError

DEPTHS = [float(depth) for depth in range(0, 101, 10)]
TOKENIZERS = {
    "smollm2": real_tokenizer,
    "tiny": lambda: tiny_tokenizer(adds_bos=True),
    "unigram": unigram_tokenizer,
}


def make(**changes: Any) -> list[Any]:
    settings: dict[str, Any] = dict(
        length=4000, depths=DEPTHS, repeats=3, seed=7, chat_template=True
    )
    return many_depths_samples(tiny_tokenizer(), HAYSTACK, **{**settings, **changes})


def needle_of(sample: Any) -> str:
    """The line that answers the question, read off the question and the answer."""
    asked = re.search(r"\nWhat is (the .+) mentioned in the provided text\?$", sample.prompt)
    assert asked
    (line,) = re.findall(rf"{asked[1].capitalize()} is {sample.answer}\.", sample.prompt)
    return str(line)


def test_every_haystack_has_each_needle_once_at_its_depth() -> None:
    samples = make()
    assert [(s.repeat, s.depth) for s in samples] == [(r, d) for r in range(3) for d in DEPTHS]
    for repeat in range(3):
        own = [s for s in samples if s.repeat == repeat]
        needles = [needle_of(sample) for sample in own]
        text = own[0].prompt
        assert [text.count(needle) for needle in needles] == [1] * 11
        assert len({s.answer for s in own}) == len({s.key for s in own}) == 11
        # without the needles the haystack is whole and in order: no sentence of it was split
        bare = text
        for needle in needles:
            bare = bare.replace(f"{needle} ", "").replace(f" {needle}", "")
        body = bare[bare.index("Number") : bare.rindex("\nWhat")]
        assert body.strip(" .-") in HAYSTACK.text
        numbers = [int(n) for n in re.findall(r"Number (\d+)", body)]
        assert all(b == a + 1 for a, b in pairwise(numbers))
        # each stands after its share of that text, half the longest sentence away at most
        for sample, needle in zip(own, needles, strict=True):
            before = text[: text.index(needle)]
            for other in needles:
                before = before.replace(f"{other} ", "")
            at = 100 * len(before[before.find("Number") :] if "Number" in before else "")
            assert abs(at / len(body) - sample.depth) < 100 * 90 / len(body) + 0.5
            if sample.depth:
                assert text[: text.index(needle)][-2:] in (". ", "? ", "! ")


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_prompts_of_a_haystack_differ_behind_it_and_the_longest_is_as_asked(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    for chat in [False, True] if tokenizer.chat_template else [False]:
        for length in (1500, 1501, 2049):
            samples = many_depths_samples(
                tokenizer, HAYSTACK, length=length, depths=[0, 30, 60, 100], repeats=2,
                seed=length, chat_template=chat,
            )  # fmt: skip
            for repeat in range(2):
                own = [s for s in samples if s.repeat == repeat]
                assert max(count(tokenizer, s, chat) for s in own) == length
                shared = own[0].prompt
                while not all(s.prompt.startswith(shared) for s in own):
                    shared = shared[:-1]
                assert all(needle_of(s) in shared for s in own)
                behind = [s.prompt.removeprefix(shared) for s in own]
                assert len(set(behind)) == 4
                assert max(map(len, behind)) < 120  # nothing but the questions


def test_long_texts_are_counted_exactly_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small limits bring the way of prompts of a million characters into a test."""
    monkeypatch.setattr(exact_length, "_WHOLE", 20_000)
    monkeypatch.setattr(exact_length, "_KEPT", 1000)
    monkeypatch.setattr(token_index, "_PIECE", 30_000)
    index_haystack.cache_clear()
    tokenizer, texts = tiny_tokenizer(), [tmp_path / f"{i}.txt" for i in range(2)]
    for i, path in enumerate(texts):
        path.write_text(prose(1500, seed=i).text)
    samples = many_depths_samples(
        tokenizer, "+".join(map(str, texts)), length=40_000, depths=DEPTHS, repeats=1
    )
    assert max(count(tokenizer, s, False) for s in samples) == 40_000
    index_haystack.cache_clear()


def test_the_same_again_is_the_same_and_haystacks_differ() -> None:
    samples = make(repeats=6)
    assert make(repeats=6) == samples
    assert make(repeats=2) == samples[:22]
    assert make(depths=DEPTHS[::-1], repeats=1) == samples[:11]
    assert len({s.answer for s in samples}) == 66
    assert len({re.search(r"Number (\d+)", s.prompt)[1] for s in samples}) > 3  # type: ignore[index]
    assert not {s.answer for s in make(repeats=1, seed=8)} & {s.answer for s in samples}


def test_a_hundred_needles_are_still_told_apart() -> None:
    samples = make(depths=range(101), repeats=1, length=20_000)
    assert len({s.key for s in samples}) == len({s.answer for s in samples}) == 101
    assert len({s.key.split()[0] for s in samples[:20]}) == 20


def test_no_answer_stands_in_the_haystack_already() -> None:
    found = {s.answer for s in make(repeats=1)}
    text = f"{HAYSTACK.text} {' '.join(sorted(found))}"
    again = make(repeats=1)
    changed = many_depths_samples(
        tiny_tokenizer(), Haystack("taken", text, ""), length=4000, depths=DEPTHS, repeats=1,
        seed=7, chat_template=True,
    )  # fmt: skip
    assert {s.answer for s in again} == found
    assert not {s.answer for s in changed} & found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(depths=[0, 50, 50]), "depth 50 is listed twice"),
        (dict(depths=[0, 101]), "percent from 0 to 100; found 101"),
        (dict(length=100), "leaves no room for the haystack"),
        (dict(depths=[50, 50.001], length=700), "stand side by side"),
    ],
)
def test_what_cannot_be_made_is_said(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make(**change)


def test_what_is_known_without_the_haystack_is_said_before_anything_runs() -> None:
    ask: dict[str, Any] = dict(repeats=1, style="many_depths", chat_template=True)
    tokenizer = tiny_tokenizer()
    check_needles(tokenizer, length=4000, depths=DEPTHS, **ask)
    with pytest.raises(ConfigError, match="leaves no room"):
        check_needles(tokenizer, length=200, depths=DEPTHS, **ask)
    with pytest.raises(ConfigError, match="twice"):
        check_needles(tokenizer, length=4000, depths=[1, 1], **ask)
