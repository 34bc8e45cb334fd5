"""Ids of texts that share their beginnings are those of the whole text."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest
from real_model import real_tokenizer
from tiny_tokenizers import tiny_tokenizer

from reattention_eval import shared_tokens
from reattention_eval.shared_tokens import SharedTokens

sys.path.insert(0, str(Path(__file__).parent / "datasets"))
from test_needle import prose, unigram_tokenizer

TOKENIZERS = {"smollm2": real_tokenizer, "tiny": tiny_tokenizer, "unigram": unigram_tokenizer}


class Counting:
    """A tokenizer that counts the characters it is given."""

    def __init__(self, tokenizer: Any) -> None:
        self.inner, self.is_fast, self.characters = tokenizer, True, 0

    def __call__(self, text: str, **options: Any) -> Any:
        self.characters += len(text)
        return self.inner(text, **options)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_are_those_of_the_whole_text(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_tokens, "_LONG", 20_000)
    tokenizer = Counting(TOKENIZERS[name]())
    shared, rng, text = SharedTokens(tokenizer), random.Random(3), prose(900).text  # type: ignore[arg-type]
    for turn in range(40):
        at = rng.randrange(10_000, len(text))
        end = rng.choice(
            ["", "\nWhat is it?", "s", " 12345", "\u00e9t\u00e9 \U0001f642", text[:3000]]
        )
        whole = text[:at] + end
        assert shared.ids(whole) == tokenizer.inner(whole, add_special_tokens=False)["input_ids"]
        if turn == 0:
            shared.ids(text)
    before = tokenizer.characters
    shared.ids(text)
    shared.ids(text + " and a question")
    if name != "unigram":  # it puts a blank before every text, so that no seam is taken on trust
        assert tokenizer.characters - before < 0.5 * len(text) + len(text)


def test_a_text_without_seams_is_tokenised_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_tokens, "_LONG", 1000)
    tokenizer = Counting(tiny_tokenizer())
    shared = SharedTokens(tokenizer)  # type: ignore[arg-type]
    for text in ("7" * 20_000, "7" * 20_000 + "8"):
        assert shared.ids(text) == tokenizer.inner(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.characters == 40_001
