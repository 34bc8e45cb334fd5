"""What is missing, failed or damaged is said, of files written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from needle_run import Run, expected
from runs_by_hand import answers, write
from written_run import FULL, OURS, write_cell

from reattention_eval.errors import ConfigError, DataError
from reattention_eval.report import build_report
from reattention_eval.report.compare import compare_runs
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
    write(whole.path("predictions", "m-full", "needle-4096.json"), answers(3))
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


def scored(run: Run, model: str, dataset: str, n: int) -> None:
    details = [{"depth": 0, "length": 4096, "accuracy": 100.0}] * n
    result = {"accuracy": 100.0, "n": n, "details": details}
    write(run.path("results", model, f"{dataset}.json"), result)


@pytest.mark.parametrize("gone", ["predictions", "manifest.json"])
def test_a_dataset_of_which_a_part_is_not_told_is_no_whole_one(run: Run, gone: str) -> None:
    model, dataset = run.cell("full", 4096, [100.0] * 3)
    folder, paths = run.path("records", model), run.path("predictions", model)
    for part in (0, 1):
        for end in ("jsonl", "manifest.json"):
            write(folder / f"{dataset}_{part}.{end}", (folder / f"{dataset}.{end}").read_text())
        write(paths / f"{dataset}_{part}.json", answers(3))
    for path in (*folder.glob(f"{dataset}.*"), paths / f"{dataset}.json"):
        path.unlink()
    scored(run, model, dataset, 6)
    assert find_problems(read_run(run.folder)) == []
    lost = paths / f"{dataset}_1.json" if gone == "predictions" else folder / f"{dataset}_1.{gone}"
    lost.unlink()
    (problem,) = find_problems(read_run(run.folder))
    assert ("holds 3 of 6 samples" if gone == "predictions" else "is no manifest") in problem


def test_a_dataset_split_by_the_partitioner_is_one_cell(run: Run) -> None:
    model, dataset = run.cell("full", 4096, [100.0] * 3)
    folder = run.path("records", model)
    for name in (f"{dataset}.jsonl", f"{dataset}.manifest.json"):
        (folder / name).rename(folder / name.replace(dataset, f"{dataset}_0"))
    write(folder / f"{dataset}_1.jsonl", json.dumps({"index": 0, "n_tokens": 9}) + "\n")
    manifest = json.loads((folder / f"{dataset}_0.manifest.json").read_text())
    manifest["dataset"]["n"] = 1
    write(folder / f"{dataset}_1.manifest.json", manifest)
    for part, n in enumerate((3, 1)):
        write(run.path("predictions", model, f"{dataset}_{part}.json"), answers(n))
    run.path("predictions", model, f"{dataset}.json").unlink()
    scored(run, model, dataset, 4)
    cell = read_run(run.folder, [(model, dataset)])[0]
    assert [cell.records[i]["n_tokens"] for i in range(4)] == [4096, 4096, 4096, 9]
    assert find_problems([cell]) == []
    # with a result of the whole its parts are no cells beside it
    assert [(c.model, c.dataset) for c in read_run(run.folder)] == [(model, dataset)]


def test_a_part_that_lost_its_last_record_moves_no_other(run: Run) -> None:
    model, dataset = run.cell("full", 4096, [100.0] * 3)
    folder = run.path("records", model)
    (folder / f"{dataset}.jsonl").unlink()
    manifest = (folder / f"{dataset}.manifest.json").read_text()
    for part, (n, done) in enumerate(((3, [0, 1]), (2, [0, 1]))):
        told = json.loads(manifest)
        told["dataset"]["n"] = n
        write(folder / f"{dataset}_{part}.manifest.json", told)
        lines = (json.dumps({"index": i, "n_tokens": 10 * part + i}) + "\n" for i in done)
        write(folder / f"{dataset}_{part}.jsonl", "".join(lines))
    (folder / f"{dataset}.manifest.json").unlink()
    write(run.path("predictions", model, f"{dataset}.json"), answers(5))
    scored(run, model, dataset, 5)
    (cell,) = read_run(run.folder, [(model, dataset)])
    assert {i: r["n_tokens"] for i, r in cell.records.items()} == {0: 0, 1: 1, 3: 10, 4: 11}
    (problem,) = find_problems([cell])
    assert "1 of 5 predictions have no readable record" in problem


@pytest.mark.parametrize("lost", [("jsonl",), ("manifest.json",), ("jsonl", "manifest.json")])
@pytest.mark.parametrize("others", [True, False])
def test_a_figure_whose_records_or_manifest_are_gone_is_no_whole_one(
    run: Run, lost: tuple[str, ...], others: bool
) -> None:
    """Of a method of ours: by its other cells, or by the name that it has."""
    model, dataset = run.cell("reattention", 4096, [100.0] * 3, abbr="m-reattention-4096-0123abcd")
    if others:
        run.cell("reattention", 12288, [100.0] * 3, abbr=model)
    for end in lost:
        run.path("records", model, f"{dataset}.{end}").unlink()
    problems = find_problems(read_run(run.folder))
    assert len(problems) == len(lost) and all(f"{model} on {dataset}: " in p for p in problems)
    assert any("3 of 3 predictions have no readable record" in p for p in problems) == (
        "jsonl" in lost
    )
    assert any("there is no manifest" in p for p in problems) == ("manifest.json" in lost)


def test_another_s_model_leaves_neither_records_nor_a_manifest(run: Run) -> None:
    model, dataset = run.cell("full", 4096, [100.0] * 3, abbr="internlm2-chat-7b")
    for end in ("jsonl", "manifest.json"):
        run.path("records", model, f"{dataset}.{end}").unlink()
    assert find_problems(read_run(run.folder)) == []


def test_records_that_are_fewer_than_a_result_counts_are_said_without_a_manifest(run: Run) -> None:
    model, dataset = run.cell("full", 4096, [100.0] * 3)
    records = run.path("records", model, f"{dataset}.jsonl")
    records.write_text("".join(records.read_text().splitlines(keepends=True)[:2]))
    run.path("records", model, f"{dataset}.manifest.json").unlink()
    problems = find_problems(read_run(run.folder))
    assert "1 of 3 predictions have no readable record" in problems[0]
    assert "there is no manifest" in problems[1]


def test_a_result_of_earlier_predictions_is_said(tmp_path: Path) -> None:
    """As it is left where predictions were deleted and made again: nothing scores them again."""
    model, dataset = write_cell(tmp_path, FULL, ["Paris", "Rome", "Paris"])
    write_cell(tmp_path, OURS, ["Paris", "Rome", "Paris"])
    assert find_problems(read_run(tmp_path)) == []
    records = tmp_path / "records" / model / f"{dataset}.jsonl"
    records.write_text(records.read_text().replace('"prediction": "Rome"', '"prediction": "Paris"'))
    (problem,) = find_problems(read_run(tmp_path))
    assert f"{model} on {dataset}: 1 of 3 samples were scored by other answers" in problem
    with pytest.raises(ConfigError, match="A: 1 of 3 samples were scored by other answers"):
        compare_runs(tmp_path, tmp_path, "full", "reattention")


def test_damaged_files_are_named(whole: Run) -> None:
    whole.path("results", "m-full", "needle-4096.json").write_text("{")
    with pytest.raises(DataError, match=r"needle-4096\.json is not valid JSON"):
        build_report(whole.folder, expected(whole))
