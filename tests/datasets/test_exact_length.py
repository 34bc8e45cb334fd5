"""Lengths that a text's own tokens skip are reached all the same."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from reattention_eval.datasets.exact_length import Insert, Layout, fit_end
from reattention_eval.datasets.token_index import HaystackIndex

WORDS = [f"{'abcdefgh'[i % 8]}longer{'xyz'[i % 3]}" for i in range(400)]
TEXT = ". ".join(" ".join(WORDS[i : i + 7]) for i in range(0, 399, 7))


def n_tokens(text: str) -> int:
    """Two a word, also one cut short, but for "etc"; marks before an empty line belong to it."""
    words = re.findall("[a-z]+", text)
    marks = re.findall(r"[.-]+(?!\n\n|[.-])", text)
    return sum(1 if word == "etc" else 2 for word in words) + len(marks) + text.count("\n\n")


def tokenizer(text: str, **_: Any) -> dict[str, Any]:
    return {"input_ids": [0] * n_tokens(text)}


def index() -> HaystackIndex:
    words = [match.span() for match in re.finditer("[a-z]+", TEXT)]
    tokens = [place for start, end in words for place in (start, (start + end) // 2)]
    sentences = [0, *(match.end() for match in re.finditer(r"\. ", TEXT))]
    return HaystackIndex("words", TEXT, np.array(tokens), np.array(sentences))


@pytest.mark.parametrize("place", [0, 60], ids=["insert at the end", "insert before"])
@pytest.mark.parametrize("length", range(300, 312))
def test_every_length_is_reached(length: int, place: int) -> None:
    haystack = index()
    end = haystack.shift(0, length - 30)
    at = haystack.nearest_sentence(end - place, 0, end)
    layout = Layout("", 0, [Insert(at, "needle is here. ")], "\n\nwhat is it")
    prompt, _ = fit_end(tokenizer, haystack, layout, at, length, n_tokens)  # type: ignore[arg-type]
    assert n_tokens(prompt) == length
    assert prompt.count("needle is here.") == 1
    assert prompt.endswith("\n\nwhat is it")
