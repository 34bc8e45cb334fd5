"""Several runs side by side, bold type, and figures beside published ones."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from runs_by_hand import leave_cell

from reattention_eval.errors import DataError
from reattention_eval.report import build_joint_report, build_report
from reattention_eval.report.frame import make_frame
from reattention_eval.report.paper import published
from reattention_eval.report.run import read_run

FACTS = {"benchmark": "bench", "group": "qa", "length": 4000, "chat_template": False,
         "prompts": "official", "scoring": "official", "fingerprint": "f" * 64}  # fmt: skip
SCORE = "bench, 4,000 tokens, official score"


def task(folder: Path, name: str, scores: list[float], method: str = "full", **facts: Any) -> None:
    details = [{"score": score, "prediction": "p", "reference": "r"} for score in scores]
    leave_cell(folder, method, f"bench-{name}", details, facts={**FACTS, "task": name, **facts})


def test_runs_are_joined_where_they_were_asked_alike(tmp_path: Path) -> None:
    task(tmp_path / "a", "x", [0.0, 100.0])
    task(tmp_path / "a", "y", [100.0, 100.0])
    task(tmp_path / "b", "y", [0.0, 0.0])  # the later of two that hold the same
    task(tmp_path / "b", "z", [50.0, 70.0], method="other")
    report = build_joint_report([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    header, rows = report.grids[SCORE]
    assert header == ["method", "x", "y", "z", "all tasks (3)"]
    assert [row[0] for row in rows] == ["full", "other"]
    assert [word.split(" ")[0] for word in rows[0][1:]] == ["50.00", "0.00", "-", "-"]


def test_an_unfinished_cell_gives_way_to_a_whole_one(tmp_path: Path) -> None:
    task(tmp_path / "a", "x", [0.0, 100.0])
    task(tmp_path / "b", "x", [100.0, 100.0])
    for room in ("results", "predictions"):
        (tmp_path / "b" / room / "Tiny-full" / "bench-x.json").unlink()
    report = build_joint_report([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert report.grids[SCORE][1][0][1].startswith("50.00")
    assert not report.problems


@pytest.mark.parametrize(
    ("name", "value"),
    [("fingerprint", "e" * 64), ("chat_template", True), ("scoring", "both"), ("samples", 2)],
)
def test_what_was_asked_differently_is_never_averaged(
    tmp_path: Path, name: str, value: object
) -> None:
    for folder, changed in (("a", {}), ("b", {name: value})):
        for place, other in enumerate(("x", "y")):
            task(tmp_path / folder, other, [100.0 * (folder == "b")] * (2 + place), **changed)
    report = build_joint_report([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    rows = report.grids[SCORE][1]
    assert [row[-1].split(" ")[0] for row in rows] == ["0.00", "100.00"]
    assert not report.problems
    told = {"fingerprint": "prompts' fingerprint"}.get(name, name)
    assert all(f"{told}=" in row[0] for row in rows)


def test_tasks_of_two_runs_asked_by_other_rules_share_no_average(tmp_path: Path) -> None:
    task(tmp_path / "a", "x", [100.0, 100.0])
    task(tmp_path / "b", "y", [0.0, 0.0], chat_template=True)
    report = build_joint_report([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert [row[-1] for row in report.grids[SCORE][1]] == ["-", "-"]


def test_methods_asked_for_other_prompts_are_a_problem_and_not_compared(tmp_path: Path) -> None:
    task(tmp_path, "x", [100.0] * 40)
    task(tmp_path, "x", [0.0] * 40, method="other", fingerprint="e" * 64)
    report = build_report(tmp_path)
    assert not any(word.best for row in report.grids[SCORE][1] for word in row)
    assert len(report.problems) == 1
    assert "asked other prompts" in report.problems[0]


def test_one_run_given_twice(tmp_path: Path) -> None:
    task(tmp_path / "a", "x", [100.0, 0.0])
    with pytest.raises(DataError, match="given twice"):
        build_joint_report([tmp_path / "a", tmp_path / "a"], tmp_path / "out")


def test_bold_is_what_intervals_tell_apart(tmp_path: Path) -> None:
    right = {"good": 38, "nearly": 36, "bad": 2}
    for method, hits in right.items():
        task(tmp_path, "x", [100.0] * hits + [0.0] * (40 - hits), method=method)
        task(tmp_path, "y", [100.0] * 20 + [0.0] * (20 + hits), method=method)
    figures = make_frame(read_run(tmp_path)).figures
    best = {(f.row.method, f.dataset, f.average_of) for f in figures if f.best}
    assert {m for m, dataset, _ in best if dataset == "bench-x"} == {"good", "nearly"}
    assert not {m for m, dataset, _ in best if dataset == "bench-y"}  # nobody told apart
    page = build_report(tmp_path)
    assert [word.best for row in page.grids[SCORE][1] for word in row[1:2]] == [False, True, True]
    table = (tmp_path / "report" / "table.md").read_text()
    assert "| good | **95.00 [83.5, 98.6] (n=40)** |" in table
    lines = list(csv.DictReader((tmp_path / "report" / "table.csv").open()))
    assert {line["method"] for line in lines if line["best"]} == {"good", "nearly"}


def test_the_data_frame_has_every_figure(tmp_path: Path) -> None:
    task(tmp_path, "x", [100.0, 0.0, 0.0])
    task(tmp_path, "y", [10.0, 20.0])
    frame = build_report(tmp_path).frame
    assert list(frame[frame.average_of.isna()].value.round(2)) == [33.33, 15.0]
    whole = frame[frame.average_of == "all tasks"].iloc[0]
    assert (whole.n, whole.tasks, whole.interval) == (5, 2, "mover")
    assert whole.low < whole.value < whole.high
    assert (frame.n > 0).all()


# -- beside the paper ------------------------------------------------------------------------------

TASKS = ("narrativeqa", "qasper", "multifieldqa_en", "multifieldqa_zh", "hotpotqa", "2wikimqa",
         "musique", "dureader", "gov_report", "qmsum", "multi_news", "vcsum", "trec", "triviaqa",
         "samsum", "lsht", "passage_count", "passage_retrieval_en", "passage_retrieval_zh", "lcc",
         "repobench-p")  # fmt: skip
PAPER = {"global_size": 32, "local_size": 8192, "span_size": 32, "top_k": 4, "max_spans": 256,
         "chunk_size": 512}  # fmt: skip


def longbench(
    folder: Path, method: str, settings: dict[str, Any], budget: int | None = None, **facts: Any
) -> None:
    for name in TASKS:
        details = [{"opencompass_score": value} for value in (30.0, 50.0)]
        about = {"benchmark": "longbench", "task": name, "group": "g", "length": 31500, **facts}
        leave_cell(
            folder, method, f"longbench-{name}", details, facts={**FACTS, **about},
            result={"opencompass_score": 40.0, "n": 2}, model="LLaMA3.1-8B", settings=settings,
            own={"dtype": "bfloat16"}, budget=budget,
        )  # fmt: skip


def test_the_difference_stands_where_model_and_setting_are_the_same(tmp_path: Path) -> None:
    longbench(tmp_path, "reattention", PAPER, 16416)
    longbench(tmp_path, "streaming_llm", {"sink_size": 32, "window_size": 16384})
    longbench(tmp_path, "snapkv", {})
    header, rows = build_report(tmp_path).grids["beside published figures"]
    shown = {row[0].rpartition(": ")[2]: dict(zip(header, row, strict=True)) for row in rows}
    ours = shown["reattention"]
    assert (ours["published"], ours["how certain"]) == ("38.63", "second-hand")
    assert ours["difference"].startswith("+1.37 [")
    assert "float16" in ours["why none, or what differs"]
    other = shown["streaming_llm"]
    assert (other["published"], other["difference"]) == ("37.06", "")
    assert "window_size 8192, ours 16384" in other["why none, or what differs"]
    assert shown["full"]["why none, or what differs"] == "not run"
    assert shown["infllm"]["ours"] == ""
    assert (shown["snapkv"]["published"], shown["snapkv"]["difference"]) == ("", "")
    assert shown["snapkv"]["ours"].startswith("40.00")


@pytest.mark.parametrize("rule", [{"last_tokens": 48}, {"selection": "block_max"}], ids=str)
def test_another_rule_of_the_same_sizes_is_another_setting(
    tmp_path: Path, rule: dict[str, Any]
) -> None:
    longbench(tmp_path, "reattention", {**PAPER, "selection": "exact", **rule}, 16416)
    longbench(tmp_path, "reattention_plus", {**PAPER, "last_tokens": 48}, 16416)
    longbench(tmp_path, "full", {"chunk_size": 2048})
    _, rows = build_report(tmp_path).grids["beside published figures"]
    (ours,) = [row for row in rows if row[0].endswith(": reattention")]
    ((name, value),) = rule.items()
    assert ours[3].startswith("40.00") and ours[4] == ""
    assert ours[5] == f"ours with {name} {value}, of which the published says nothing"
    (full,) = [row for row in rows if row[0].endswith(": full")]
    assert full[4]  # any chunks are full attention
    (plus,) = [row for row in rows if ": reattention_plus" in row[0]]
    assert plus[1] == plus[4] == ""


def test_a_part_of_the_samples_is_another_setting(tmp_path: Path) -> None:
    longbench(tmp_path, "reattention", PAPER, samples=2)
    _, rows = build_report(tmp_path).grids["beside published figures"]
    (ours,) = [row for row in rows if row[0].endswith(": reattention")]
    assert ours[4:] == ["", "ours are 2 samples of a task, published: all"]


def test_a_model_of_which_nothing_is_published_has_no_such_table(tmp_path: Path) -> None:
    task(tmp_path, "x", [100.0, 0.0])
    assert "beside published figures" not in build_report(tmp_path).grids


def test_every_published_figure_has_a_source_and_says_how_certain_it_is() -> None:
    found = published()
    assert len(found) == 24
    assert all(one.source and one.certainty for one in found)
    average = {p.method: p.value for p in found if p.model == "LLaMA3-8B" and p.tasks == 21}
    assert average == {
        "full": 35.48, "streaming_llm": 32.49, "infllm": 32.51, "reattention": 35.03,
    }  # fmt: skip
