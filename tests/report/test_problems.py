"""What is missing, failed or damaged is said, of files written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from needle_run import Run, expected, write

from reattention_eval.errors import DataError
from reattention_eval.report import build_report
from reattention_eval.report.frame import make_frame
from reattention_eval.report.measures import absent_words
from reattention_eval.report.problems import find_problems
from reattention_eval.report.run import read_run
from reattention_eval.report.tables import grids

ACCURACY = "accuracy, %"
NLL = "answer NLL per token (lower is better)"


def test_nothing_is_wrong_with_a_whole_run(whole: Run) -> None:
    assert find_problems(read_run(whole.folder, expected(whole))) == []


def test_what_never_ran_is_missing(whole: Run) -> None:
    cells = read_run(whole.folder, [*expected(whole), ("m-full", "needle-65536")])
    assert find_problems(cells) == [
        "m-full on needle-65536: no predictions, the inference task failed or never ran."
    ]
    assert grids(make_frame(cells))[ACCURACY][1][0][3] == "missing"


def test_why_there_is_nothing_is_what_its_task_said(whole: Run) -> None:
    lost = [("m-full", "needle-65536"), ("m-full", "needle-131072"), ("m-none", "needle-65536")]
    log = whole.folder / "logs" / "infer" / "m-full" / "needle-4096.out"
    log.parent.mkdir(parents=True)
    log.write_text("error: m-full on needle-131072: no room\nas it says\n")
    cells = read_run(whole.folder, lost)
    never = "no predictions, the inference task failed or never ran."
    said = [never, "no predictions, no room", never]
    assert [problem.split(": ", 1)[1] for problem in find_problems(cells)] == said
    assert [absent_words(cell) for cell in cells] == ["missing", "failed", "missing"]
    log.write_text(log.read_text() + "error: the checkpoint is gone\n")
    said[0] = "no predictions, the checkpoint is gone"
    found = find_problems(read_run(whole.folder, lost))
    assert [problem.split(": ", 1)[1] for problem in found] == said


def test_a_failed_sample_is_named_and_a_later_success_counts(whole: Run) -> None:
    whole.path("predictions", "m-full", "needle-4096.json").unlink()
    records = whole.path("records", "m-full", "needle-4096.jsonl")
    with records.open("a") as file:
        file.write(json.dumps({"index": 1, "error": "OutOfMemoryError: 3 GB"}) + "\n")
    problems = find_problems(read_run(whole.folder, expected(whole)))
    assert problems == [
        "m-full on needle-4096: 1 of 3 samples failed (sample 1: OutOfMemoryError: 3 GB)."
    ]
    with records.open("a") as file:
        file.write(json.dumps({"index": 1, "n_tokens": 4096}) + "\n")
    write(whole.path("predictions", "m-full", "needle-4096.json"), {})
    assert find_problems(read_run(whole.folder, expected(whole))) == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "predicted and not scored"),
        ({"error": "no references"}, "the evaluator reports an error: no references"),
    ],
)
def test_a_missing_or_bad_result(whole: Run, content: Any, says: str) -> None:
    path = whole.path("results", "m-full", "needle-4096.json")
    path.unlink()
    if content:
        write(path, content)
    problems = find_problems(read_run(whole.folder, expected(whole)))
    assert len(problems) == 1
    assert says in problems[0]
    shown = grids(make_frame(read_run(whole.folder, expected(whole))))[ACCURACY][1][0][1]
    assert shown == ("failed" if content else "not scored")


def test_a_method_that_never_selected_is_full_attention(run: Run) -> None:
    run.cell("reattention", 12288, [100.0] * 3, selected=0)
    problems = find_problems(read_run(run.folder))
    assert len(problems) == 1
    assert "3 of 3 prompts are longer than reattention may attend to (budget 4096" in problems[0]


def test_inside_the_scope_nothing_has_to_be_selected(run: Run) -> None:
    run.cell("reattention", 4096, [100.0] * 3, selected=0)
    assert find_problems(read_run(run.folder)) == []


def test_an_empty_run_is_a_problem(tmp_path: Path) -> None:
    assert "nothing was evaluated" in find_problems(read_run(tmp_path))[0]


def test_a_dataset_split_by_the_partitioner_is_one_cell(run: Run) -> None:
    model, dataset = run.cell("full", 4096, [100.0] * 3)
    folder = run.path("records", model)
    for name in (f"{dataset}.jsonl", f"{dataset}.manifest.json"):
        (folder / name).rename(folder / name.replace(dataset, f"{dataset}_0"))
    write(folder / f"{dataset}_1.jsonl", json.dumps({"index": 0, "n_tokens": 9}) + "\n")
    for part in ("_0", "_1"):
        write(run.path("predictions", model, f"{dataset}{part}.json"), {})
    run.path("predictions", model, f"{dataset}.json").unlink()
    cell = read_run(run.folder, [(model, dataset)])[0]
    assert [cell.records[i]["n_tokens"] for i in range(4)] == [4096, 4096, 4096, 9]
    assert find_problems([cell]) == []


def test_damaged_files_are_named(whole: Run) -> None:
    whole.path("results", "m-full", "needle-4096.json").write_text("{")
    with pytest.raises(DataError, match=r"needle-4096\.json is not valid JSON"):
        build_report(whole.folder, expected(whole))
