"""Raw files of LongBench, L-Eval and InfiniteBench, and the prompts made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_benchmarks import RAW_BENCHMARKS, load_rows, write_benchmarks

from reattention_eval.benchmarks.base import Answer
from reattention_eval.errors import ConfigError, DataError

TASKS = [(b.name, task) for b in RAW_BENCHMARKS.values() for task in b.tasks]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_benchmarks(tmp_path / "data")
    monkeypatch.setenv("REATTENTION_DATA", str(folder))
    return folder


def put(data: Path, benchmark: str, task: str, *rows: dict[str, Any]) -> Path:
    path = data / benchmark / f"{task}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_benchmarks_are_whole() -> None:
    assert {name: len(b.tasks) for name, b in RAW_BENCHMARKS.items()} == {
        "longbench": 21, "leval": 20, "infinitebench": 12,
    }  # fmt: skip
    assert len(RAW_BENCHMARKS["leval"].groups()["paper"]) == 18
    assert RAW_BENCHMARKS["infinitebench"].groups()["paper"] == [
        "longbook_choice_eng", "longbook_qa_eng", "longbook_sum_eng",
    ]  # fmt: skip
    assert len(RAW_BENCHMARKS["infinitebench"].groups()["other"]) == 9


@pytest.mark.parametrize(("benchmark", "task"), TASKS)
def test_every_task_loads_with_its_document_whole(data: Path, benchmark: str, task: str) -> None:
    rows = load_rows(benchmark, task)
    raw = [json.loads(line) for line in _lines(data / benchmark / f"{task}.jsonl")]
    field = "input" if benchmark == "leval" else "context"
    documents = list(dict.fromkeys(row[field] for row in raw))
    for row in rows:
        assert row["part"] == 1 or documents[row["document"]] in row["prompt"]
        assert "{" not in row["prompt"].replace(documents[row["document"]], "")


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").rstrip("\n").split("\n")


def test_questions_of_a_document_follow_each_other(data: Path) -> None:
    rows = load_rows("infinitebench", "longbook_qa_eng")
    assert [row["sample"] for row in rows] == [0, 2, 1]
    assert [row["document"] for row in rows] == [0, 0, 1]
    rows = load_rows("leval", "gov_report_summ")
    assert [row["document"] for row in rows] == [0, 0, 0, 0, 1, 1]
    assert [row["scorings"] for row in rows][2:4] == [["opencompass"]] * 2


def test_the_first_samples_are_the_files_first(data: Path) -> None:
    assert [r["sample"] for r in load_rows("infinitebench", "longbook_qa_eng", samples=2)] == [0, 1]
    assert len(load_rows("leval", "sci_fi", samples=3)) == 6
    assert len(load_rows("leval", "gov_report_summ")) == 6
    assert len(load_rows("leval", "gov_report_summ", scoring="official")) == 4


def test_science_fiction_asks_twice_and_joins(data: Path) -> None:
    rows = load_rows("leval", "sci_fi")
    first = [row for row in rows if row["document"] == 0]
    assert [row["part"] for row in first] == [0, 0, 1, 1]  # the document's prompts share a prefix
    fact = first[2]["prompt"]
    assert "real-world knowledge" in fact
    assert "Document 0" not in fact
    assert fact.endswith("\nAnswer:")
    answers = [f"{row['sample']}{'sf'[row['part']]}" for row in rows]
    found = RAW_BENCHMARKS["leval"].result(
        "sci_fi", rows, [Answer(text, 1) for text in answers], "official"
    )
    assert [d["prediction"] for d in found["details"]] == [f"{n}s [fact: {n}f]" for n in range(4)]


def test_options_and_calls_are_filled_in(data: Path) -> None:
    debug = load_rows("infinitebench", "code_debug")[0]
    assert "B. run_dog\n" in debug["prompt"]
    assert debug["reference"] == ["run_dog", "B"]
    run = load_rows("infinitebench", "code_run")[0]
    assert "called named func_7." in run["prompt"]
    assert "value of func_7(-3)." in run["prompt"]
    find = load_rows("infinitebench", "math_find")[0]
    assert find["prompt"].startswith("What is the largest number in the following list?\n\n")


def test_prompt_sets(data: Path) -> None:
    instruct = load_rows("infinitebench", "passkey")[0]["prompt"]
    begun = load_rows("infinitebench", "passkey", prompts="yarn-mistral")[0]["prompt"]
    assert begun == instruct + "\n\nThe pass key is"
    with pytest.raises(ConfigError, match="gpt4, yarn-mistral"):
        load_rows("infinitebench", "passkey", prompts="none")


def test_a_missing_file_says_where_and_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REATTENTION_DATA", str(tmp_path))
    with pytest.raises(DataError) as error:
        load_rows("leval", "codeU")
    assert str(tmp_path / "leval" / "codeU.jsonl") in str(error.value)
    assert "reattention-eval prepare leval" in str(error.value)


def test_without_the_variable_the_cache_is_looked_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REATTENTION_DATA", raising=False)
    monkeypatch.setenv("REATTENTION_CACHE", str(tmp_path))
    write_benchmarks(tmp_path / "data")
    assert load_rows("longbench", "qasper")


def test_damaged_files_name_the_line(data: Path) -> None:
    good = {"input": "q", "context": "c", "answers": ["a"], "all_classes": None}
    path = put(data, "longbench", "qasper", good)
    path.write_text(path.read_text() + '\n{"input": "q", "con', encoding="utf-8")
    with pytest.raises(DataError, match=r"line 3 of .*qasper\.jsonl is not JSON"):
        load_rows("longbench", "qasper")
    put(data, "longbench", "qasper", good, {"input": "q", "context": "c"})
    with pytest.raises(DataError, match=r"line 2 .* has no answers, all_classes; found input"):
        load_rows("longbench", "qasper")
    path.write_text("[1]\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"line 1 .* not a JSON object but list"):
        load_rows("longbench", "qasper")
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="holds no sample"):
        load_rows("longbench", "qasper")


def test_another_benchmarks_row_is_refused(data: Path) -> None:
    row = {"id": 0, "context": "c", "input": "?", "answer": ["x"], "options": ["a", "b", "c", "d"]}
    put(data, "infinitebench", "longbook_choice_eng", row)
    with pytest.raises(DataError, match="none of the options"):
        load_rows("infinitebench", "longbook_choice_eng")
    put(data, "infinitebench", "code_run", {**row, "options": []})
    with pytest.raises(DataError, match="func_"):
        load_rows("infinitebench", "code_run")


@pytest.mark.parametrize(("benchmark", "task"), [("none", "x"), ("leval", "none")])
def test_unknown_names_list_those_that_exist(benchmark: str, task: str) -> None:
    with pytest.raises(ConfigError, match="choose from"):
        load_rows(benchmark, task)


def test_real_rows_load_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REATTENTION_DATA", str(Path(__file__).parent / "data"))
    news = load_rows("longbench", "multi_news")
    assert len(news) == 2
    head = "You are given several news passages. Write a one-page summary of all news. \n\nNews:\n"
    assert all(row["prompt"].startswith(head + "Passage 1:\n") for row in news)
    end = "\n\nNow, write a one-page summary of all the news.\n\nSummary:"
    assert all(row["prompt"].endswith(end) for row in news)
    chinese = load_rows("longbench", "multifieldqa_zh")
    assert [len(row["reference"]["answers"]) for row in chinese] == [1, 1]
    for row, raw in zip(chinese, _lines(_real("multifieldqa_zh")), strict=True):
        assert f"\n\n{json.loads(raw)['context']}\n\n" in row["prompt"]
        assert row["prompt"].endswith(f"{json.loads(raw)['input']}\n\u56de\u7b54\uff1a")


def _real(task: str) -> Path:
    return Path(__file__).parent / "data" / "longbench" / f"{task}.jsonl"
