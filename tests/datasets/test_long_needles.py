"""Prompts longer than one text, the index kept on disk, and counting without tokenising again."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from real_model import real_tokenizer
from test_needle import HAYSTACK, prose, unigram_tokenizer
from tiny_tokenizers import tiny_tokenizer

from reattention_eval.datasets import exact_length, needle_samples, parallel_samples, token_index
from reattention_eval.datasets import haystack as haystack_module
from reattention_eval.datasets.haystack import Haystack, check_haystack, iter_haystack
from reattention_eval.datasets.token_index import enough_text, index_haystack
from reattention_eval.errors import DataError
from reattention_eval.prompts import prepare_prompt

TOKENIZERS = {
    "smollm2": real_tokenizer,
    "tiny": lambda: tiny_tokenizer(adds_bos=True),
    "unigram": unigram_tokenizer,
}


@pytest.fixture
def texts(tmp_path: Path) -> list[Path]:
    """Three texts of some 25,000 tokens each, their sentences numbered apart."""
    paths = []
    for i in range(3):
        path = tmp_path / f"text{i}.txt"
        path.write_text(prose(1500, seed=i).text.replace("Number ", f"Number {i}-"))
        paths.append(path)
    return paths


def counted(tokenizer: Any, sample: Any, chat_template: bool = False) -> int:
    return prepare_prompt(
        tokenizer, sample.prompt, chat_template=chat_template,
        answer_prefix=getattr(sample, "answer_prefix", ""),
    ).n_tokens  # fmt: skip


@pytest.mark.parametrize("name", TOKENIZERS)
def test_counts_without_the_inside_are_exact(
    name: str, texts: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small limits bring the way of prompts of a million characters into a test."""
    tokenizer = TOKENIZERS[name]()
    monkeypatch.setattr(exact_length, "_WHOLE", 20_000)
    monkeypatch.setattr(exact_length, "_KEPT", 1000)
    monkeypatch.setattr(token_index, "_PIECE", 30_000)
    index_haystack.cache_clear()
    source = "+".join(map(str, texts))
    holes = []
    hole = exact_length._hole
    monkeypatch.setattr(exact_length, "_hole", lambda *a: holes.append(hole(*a)) or holes[-1])
    for length in (9_000, 40_000):
        for chat in [False, True] if tokenizer.chat_template else [False]:
            ask: dict[str, Any] = dict(length=length, seed=length, chat_template=chat)
            samples: list[Any] = [
                *needle_samples(tokenizer, source, depths=[0, 30, 100], repeats=2, **ask),
                *parallel_samples(tokenizer, source, depths=[0, 20, 60, 100], repeats=2, **ask),
            ]
            assert {counted(tokenizer, sample, chat) for sample in samples} == {length}
    index_haystack.cache_clear()
    assert sum(one is not None for one in holes) > 20  # or this test would test nothing


def test_texts_follow_each_other_and_none_comes_twice(texts: list[Path]) -> None:
    tokenizer = tiny_tokenizer()
    source = "+".join([str(texts[0]), str(texts[1]), str(texts[0]), str(texts[2])])
    one = index_haystack(tokenizer, next(iter_haystack(source))).n_tokens
    assert enough_text(tokenizer, source, one - 10).name == "text0.txt"
    assert enough_text(tokenizer, source, one + 10).name == "text0.txt+text1.txt"
    length = int(2.6 * one)
    sample = needle_samples(tokenizer, source, length=length, depths=[50], repeats=1)[0]
    assert counted(tokenizer, sample) == length
    numbers = re.findall(r"Number (\d-\d+)", sample.prompt)
    assert len(numbers) == len(set(numbers)) > 3000
    assert {number[0] for number in numbers} == {"0", "1", "2"}
    with pytest.raises(DataError, match=r"needed; ask for .* add text: .* joined by .\+."):
        needle_samples(tokenizer, source, length=4 * one, depths=[50], repeats=1)


def test_an_index_is_kept_on_disk_and_made_anew_if_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REATTENTION_CACHE", str(tmp_path))
    monkeypatch.setattr(token_index, "_SMALL", 0)
    text = HAYSTACK.text
    haystack = Haystack("kept", text, hashlib.sha256(text.encode()).hexdigest())
    first = index_haystack(tiny_tokenizer(), haystack)
    files = sorted((tmp_path / "token_index").glob("*.npy"))
    assert len(files) == 2

    def again(tokenizer: Any) -> Any:
        index_haystack.cache_clear()
        return index_haystack(tokenizer, haystack)

    make = token_index._tokens
    monkeypatch.setattr(token_index, "_tokens", lambda *_: pytest.fail("tokenised again"))
    kept = again(tiny_tokenizer())
    assert kept.tokens.tolist() == first.tokens.tolist()
    assert kept.sentences.tolist() == first.sentences.tolist()
    monkeypatch.setattr(token_index, "_tokens", make)
    # another tokenizer has an index of its own
    assert again(real_tokenizer()).n_tokens != first.n_tokens
    assert len(list((tmp_path / "token_index").glob("*.npy"))) == 3
    for file in files:
        file.write_bytes(file.read_bytes()[:50])
    assert again(tiny_tokenizer()).tokens.tolist() == first.tokens.tolist()
    index_haystack.cache_clear()


def test_long_texts_are_read_in_pieces_of_whole_paragraphs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "paragraphs.md"
    paragraphs = [f"Paragraph {i}. {'word ' * (i % 7)}end." for i in range(400)]
    path.write_text("\n\n".join(paragraphs))
    monkeypatch.setattr(haystack_module, "_PIECE", 3000)
    pieces = list(iter_haystack(str(path)))
    assert len(pieces) > 3
    assert [p for piece in pieces for p in piece.text.split("\n\n")] == paragraphs
    assert len({piece.sha256 for piece in pieces}) == len(pieces)


def test_a_folder_is_a_text_too(tmp_path: Path) -> None:
    for name in ("b.txt", "a.md", "c.py"):
        (tmp_path / name).write_text(f"This is {name}. ")
    assert [h.text for h in iter_haystack(str(tmp_path))] == ["This is a.md.\n\nThis is b.txt."]


def test_only_the_texts_that_a_length_can_need_must_be_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REATTENTION_CACHE", str(tmp_path))
    monkeypatch.delenv("REATTENTION_DATA", raising=False)
    with pytest.raises(DataError, match=r"essays is not on this machine .* prepare needle"):
        check_haystack("long", 4096)
    essays = tmp_path / "data" / "PaulGrahamEssays.json"
    essays.write_text(json.dumps({"text": "word " * 600_000}))
    check_haystack("long", 400_000)
    with pytest.raises(DataError, match="shakespeare is not on this machine"):
        check_haystack("long", 1_000_000)
    (tmp_path / "data" / "shakespeare.md").write_text("word " * 1_000_000)
    check_haystack("long", 1_000_000)
    with pytest.raises(DataError, match=r"wikipedia is not .* prepare ruler"):
        check_haystack("long", 4_000_000)
    with pytest.raises(DataError, match="there is no haystack essays2"):
        check_haystack("essays+essays2", 4_000_000)
