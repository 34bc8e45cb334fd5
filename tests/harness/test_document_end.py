"""Where a prompt's document ends: each benchmark says it, and tokens are counted up to there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_benchmarks import CHINESE, RAW_BENCHMARKS, STORY, load_rows, write_benchmarks
from tiny_raw_files import write_longbench_v2, write_mrcr
from tiny_ruler import paragraph, write_ruler
from tiny_tokenizers import tiny_tokenizer

from reattention_eval.benchmarks import find_benchmark, mrcr
from reattention_eval.benchmarks.needle import RULES
from reattention_eval.datasets.ruler import RULER_TASKS
from reattention_eval.errors import ConfigError
from reattention_eval.harness.compose.jobs import plan_jobs
from reattention_eval.harness.compose.opencompass_dataset import opencompass_dataset
from reattention_eval.prompts import prepare_prompt
from reattention_eval.shared_tokens import SharedTokens

WORDS = "the dog and the fox think of an essay. "


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmarks(tmp_path_factory.mktemp("raw"))


@pytest.mark.parametrize("name", RAW_BENCHMARKS)
def test_raw_benchmarks(name: str, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REATTENTION_DATA", str(raw))
    for task in RAW_BENCHMARKS[name].tasks:
        for row in load_rows(name, task):
            if row["part"]:  # of sci_fi: asked without the document
                assert row["question"] is None
                continue
            assert row["prompt"].endswith(row["question"])
            document = row["prompt"].removesuffix(row["question"] or "\0")
            assert document.endswith((STORY.strip(), CHINESE))
            assert STORY not in row["question"]


def test_longbench_v2_and_mrcr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REATTENTION_DATA", str(tmp_path))
    monkeypatch.setattr(mrcr, "_count", lambda: lambda text: len(text.split()))
    monkeypatch.setattr(mrcr, "load_tokenizer", lambda path: tiny_tokenizer())
    for row in write_longbench_v2(tmp_path) and load_rows("longbench_v2", "multiple_choice")[1:]:
        if row["question"] is not None:
            assert row["question"].startswith("\n</text>\n\nWhat is the correct answer")
    write_mrcr(tmp_path)
    for chat, begins in ((False, "User:\n"), (True, "")):
        for row in find_benchmark("mrcr").rows("2needle", "", length=8192, chat_template=chat):
            mark = row["reference"]["random_string_to_prepend"]
            assert row["prompt"].endswith(row["question"])
            assert row["question"].startswith(begins)
            assert mark in row["question"]
            assert "User:\n" not in row["question"][5:]
            assert "<|im_start|>user" not in row["question"]


def test_needles(checkpoint: Path, haystack: Path) -> None:
    recipe: dict[str, Any] = dict(
        length=2500, depths=[10, 90], repeats=1, chat_template=True, haystack=str(haystack)
    )
    for style in RULES["official"]:
        for row in find_benchmark("needle").rows(style, str(checkpoint), **recipe):
            document = row["prompt"].removesuffix(row["question"])
            assert len(row["question"]) > 20
            assert row["question"] not in document
            assert "?" not in document[-100:]
            assert len(document) > 4000


def test_ruler(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REATTENTION_DATA", str(write_ruler(tmp_path / "data")))
    monkeypatch.setenv("REATTENTION_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "data").mkdir(parents=True)
    prose = json.dumps({"text": " ".join(paragraph(i) for i in range(500))})
    (tmp_path / "cache" / "data" / "PaulGrahamEssays.json").write_text(prose)
    for name, task in RULER_TASKS.items():
        (row,) = find_benchmark("ruler").rows(name, str(checkpoint), length=2000, samples=1)
        document = row["prompt"].removesuffix(row["question"])
        shown = task.template.partition("{context}")
        assert row["question"].split()[:4] == shown[2].split()[:4]
        assert shown[0].split("{")[0] in document
        # two tasks show a worked example first
        assert document.count(shown[2].split("{")[0]) == (name in ("vt", "cwe"))
        assert len(document) > 10 * len(row["question"])


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("question", ["\nwho is the dog?", "", "x?", "a fox asks  "], ids=repr)
def test_tokens_before_the_question(question: str, adds_bos: bool) -> None:
    tokenizer = tiny_tokenizer(adds_bos=adds_bos)
    for document in ("the do", WORDS * 4, WORDS * 400):
        for chat in (False, True):
            settings: dict[str, Any] = dict(
                chat_template=chat, answer_prefix=" it is", question=question
            )
            made = prepare_prompt(tokenizer, document + question, **settings)
            before = "<|im_start|>user\n" if chat else ""
            after = "<|im_end|>\n<|im_start|>assistant\n" if chat else ""
            text = f"{before}{document}{question}{after} it is"
            spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            end = len(before + document)
            expected = adds_bos + sum(stop <= end for _, stop in spans["offset_mapping"])
            assert made.document_tokens == expected
            shared = SharedTokens(tokenizer)
            for _ in range(2):
                again = prepare_prompt(tokenizer, document + question, **settings, shared=shared)
                assert again == made
            plain = prepare_prompt(tokenizer, document + question, **{**settings, "question": None})
            assert plain.document_tokens is None
            assert plain.input_ids == made.input_ids
            # the cut takes the middle: the tokens behind the document stay, while there are any
            behind = made.n_tokens - expected
            for limit in (made.n_tokens - 1, made.n_tokens // 2 + 12):
                cut = prepare_prompt(tokenizer, document + question, **settings, max_tokens=limit)
                assert cut.document_tokens is not None
                assert cut.n_tokens - cut.document_tokens <= behind
                if limit > 4 * behind + 40:
                    assert cut.n_tokens - cut.document_tokens == behind


def test_a_question_is_the_end_of_its_prompt() -> None:
    with pytest.raises(ConfigError, match="does not end with its question 'who'"):
        prepare_prompt(tiny_tokenizer(), "who is the dog?", question="who")
    # a template that shows the text in another form
    tokenizer = tiny_tokenizer(chat_template="{{ messages[0]['content'] | upper }}!")
    with pytest.raises(ConfigError, match="does not put the user's text into the prompt"):
        prepare_prompt(tokenizer, WORDS + "Why?", question="Why?", chat_template=True)


def test_opencompass_is_told_the_column(checkpoint: Path, raw: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("REATTENTION_DATA", str(raw))
    plans = [dict(benchmark="longbench", tasks=["hotpotqa"], lengths=[2000])]
    models = [dict(path=str(checkpoint), window=8192)]
    (job,) = plan_jobs(models, [dict(type="full")], plans)
    inferencer = opencompass_dataset(job)["infer_cfg"]["inferencer"]
    assert inferencer["question_column"] == "question"
