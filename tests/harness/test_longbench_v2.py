"""LongBench v2 on a tiny data.json in the real format: prompt, letter, classes, cut, table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tiny_raw_files import write_longbench_v2

from reattention_eval.benchmarks import find_benchmark
from reattention_eval.benchmarks.base import Answer
from reattention_eval.errors import ConfigError, DataError
from reattention_eval.evaluators import score

V2 = find_benchmark("longbench_v2")
TASK = "multiple_choice"


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setenv("REATTENTION_DATA", str(tmp_path))
    return write_longbench_v2(tmp_path)


def test_the_prompt_is_the_benchmarks(raw: list[dict[str, Any]]) -> None:
    """Fields without white space at their ends; places filled one after another, as there."""
    rows = V2.rows(TASK, "")
    assert len(rows) == 4
    context = raw[1]["context"].strip().replace("$C_A$", "The dog")
    assert rows[1]["prompt"] == (
        "Please read the following text and answer the question below.\n\n<text>\n"
        f"{context}\n</text>\n\n"
        "What is the correct answer to this question: Who reads essay 1?\nChoices:\n"
        "(A) The dog\n(B) The fox\n(C) The hill\n(D) Nobody\n\n"
        'Format your response as follows: "The correct answer is (insert answer here)".'
    )
    assert rows[1]["reference"] == {"answer": "B", "difficulty": "hard", "length": "medium"}
    bare = V2.rows(TASK, "", prompts="0shot_no_context", samples=1)
    assert len(bare) == 1
    assert "Document" not in bare[0]["prompt"]


def official_letter(response: str) -> str | None:
    """What the paper says of its rule, written anew: the first form with parentheses anywhere wins
    over any without."""
    text = "".join(c for c in response if c != "*")
    for open_mark, close_mark in (("(", ")"), ("", "")):
        for start in range(len(text)):
            for letter in "ABCD":
                if text.startswith(f"The correct answer is {open_mark}{letter}{close_mark}", start):
                    return letter
    return None


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("The correct answer is (B)", "B"),
        ("The correct answer is B.", "B"),
        ("**The correct answer is (C)** The fox", "C"),
        ("The correct answer is **D**", "D"),
        ("The correct answer is A, no: The correct answer is (B)", "B"),
        ("The correct answer is (B", None),
        ("the correct answer is (B)", None),
        ("(B) The fox", None),
        ("The correct answer is (insert answer here)", None),
        ("The correct answer is (E)", None),
        ("The correct answer is Dogs", "D"),
        ("", None),
    ],
)
def test_the_letter(response: str, letter: str | None) -> None:
    from reattention_eval.benchmarks.longbench_v2 import chosen_letter

    assert chosen_letter(response) == letter == official_letter(response)


def test_figures_by_class(raw: list[dict[str, Any]]) -> None:
    said = ["The correct answer is (A)", "The correct answer is (C)", "(C)", "The correct answer D"]
    assert score("longbench_v2", TASK, said, raw) == {
        "accuracy": 25.0, "score_easy": 50.0, "score_hard": 0.0, "score_short": 50.0,
        "score_medium": 0.0, "score_long": 0.0,
    }  # fmt: skip
    rows = V2.rows(TASK, "")
    found = V2.result(TASK, rows, [Answer(text, 900, 4) for text in said], "both")
    assert found["score"] == 25.0
    assert found["score_easy"] == 50.0
    assert found["n"] == 4
    assert [d["score"] for d in found["details"]] == [100.0, 0.0, 0.0, 0.0]
    assert not [name for name in found if name.startswith("opencompass")]
    alone = score("longbench_v2", TASK, said[:1], raw[:1])
    assert alone == {"accuracy": 100.0, "score_easy": 100.0, "score_short": 100.0}


def test_damaged_files_are_named(raw: list[dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "longbench_v2" / "data.json"
    whole = path.read_text()
    path.write_text(whole[:-20])
    with pytest.raises(DataError, match=r"data\.json is not JSON .*prepare longbench_v2"):
        V2.rows(TASK, "")
    path.write_text(whole.replace('"difficulty"', '"difficult"'))
    with pytest.raises(DataError, match=r"row 1 of .*data\.json has no difficulty"):
        V2.rows(TASK, "")
    path.write_text('{"rows": []}')
    with pytest.raises(DataError, match="no list of rows"):
        V2.rows(TASK, "")
    path.unlink()
    with pytest.raises(DataError, match="reattention-eval prepare longbench_v2"):
        V2.check(TASK, 120000)
    with pytest.raises(ConfigError, match="no task 'none'; choose from multiple_choice"):
        score("longbench_v2", "none", ["a"], ["a"])


def test_it_runs_with_the_middle_cut_and_has_its_table(
    raw: list[dict[str, Any]], checkpoint: Path, tmp_path: Path
) -> None:
    from reattention_eval.harness.compose import plan_jobs
    from reattention_eval.harness.standalone import run_standalone

    model = dict(path=str(checkpoint), abbr="tiny", dtype="float32", chat_template=True)
    plan = dict(benchmark="longbench_v2", lengths=[200], cut_at_window=False)
    jobs = plan_jobs([model], [dict(type="full", chunk_size=64)], [plan])
    (job,) = jobs
    assert re.fullmatch(r"longbench_v2-multiple_choice-200-[0-9a-f]{8}", job.dataset)
    assert (job.asked.max_out_len, job.asked.max_prompt_tokens) == (128, 200)
    report = run_standalone(jobs, tmp_path / "work")
    assert report.problems == []
    header, rows = report.grids["longbench_v2, 200 tokens, official score: parts"]
    assert header == ["method", "easy", "hard", "short", "medium", "long"]
    of_two, of_one = "0.00 [0.0, 65.8] (n=2)", "0.00 [0.0, 79.3] (n=1)"  # each part's own samples
    assert rows == [["full", of_two, of_two, of_two, of_one, of_one]]
    assert any("4 of 4 prompts were longer than allowed" in note for note in report.notes)
