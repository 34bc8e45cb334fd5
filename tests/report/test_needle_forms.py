"""The forms of the needle test apart, and intervals, first-token times and memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs_by_hand import answers, write
from scipy.stats import binomtest

from reattention_eval.report import build_report
from reattention_eval.report.intervals import wilson


@pytest.mark.parametrize(
    ("hits", "n"), [(0, 1), (1, 1), (0, 5), (5, 5), (3, 11), (54, 55), (17, 33)]
)
def test_the_interval_is_scipy_s(hits: int, n: int) -> None:
    theirs = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert wilson(hits, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_nothing_known_is_anything() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def cell(folder: Path, task: str, length: int, haystacks: int, right: float = 100.0) -> str:
    """Full attention on a form at depths 0 and 50: haystack 0 read in 8 s, 1 in 4, ..."""
    model, dataset = "m-full", f"needle-{task}-{length}-12345678"
    details, records = [], []
    for i in range(2 * haystacks):
        repeat, depth = divmod(i, 2)
        details.append(
            {"depth": 50.0 * depth, "repeat": repeat, "length": length, "accuracy": right,
             "answer_nll": 0.5}
        )  # fmt: skip
        records.append(
            {"index": i, "n_tokens": length, "reused_tokens": depth * (length - 100),
             "prefill_seconds": 0.1 if depth else 8.0 / (1 + repeat), "peak_bytes": (i + 1) << 30}
        )  # fmt: skip
    result = {"accuracy": right, "answer_nll": 0.5, "n": len(details), "details": details}
    write(folder / "results" / model / f"{dataset}.json", result)
    write(folder / "predictions" / model / f"{dataset}.json", answers(len(details)))
    lines = "".join(json.dumps(record) + "\n" for record in records)
    write(folder / "records" / model / f"{dataset}.jsonl", lines)
    facts = {"benchmark": "needle", "task": task, "length": length, "n": len(details)}
    manifest = {
        "model": {"name": "Tiny", "trained_window": 32768}, "method": {"name": "full"},
        "dataset": facts,
    }  # fmt: skip
    write(folder / "records" / model / f"{dataset}.manifest.json", manifest)
    return dataset


def test_many_depths_have_their_name_and_what_they_took(tmp_path: Path) -> None:
    for length, haystacks in ((32768, 3), (2**20, 1)):
        cell(tmp_path, "many_depths", length, haystacks)
    report = build_report(tmp_path)
    title = "needles at many depths of one haystack: "
    seconds = f"{title}time to the first token, seconds (median of n prompts read whole)"
    assert report.grids == {
        f"{title}accuracy, %": (
            ["method", "32,768", "1,048,576"],
            [["full", "100.0 [61, 100] (n=6)", "100.0 [34, 100] (n=2)"]],
        ),
        f"{title}answer NLL per token (lower is better)": (
            ["method", "32,768", "1,048,576"],
            [["full", "0.50 (n=6)", "0.50 (n=2)"]],
        ),
        seconds: (["method", "32,768", "1,048,576"], [["full", "4.0 (n=3)", "8.0 (n=1)"]]),
        f"{title}peak memory, GiB (the most of n prompts)": (
            ["method", "32,768", "1,048,576"],
            [["full", "6.0 (n=6)", "2.0 (n=2)"]],
        ),
    }
    assert "asked for one at a time" in report.sentence
    assert "(n = 2 to 6 questions a cell, depths x texts)" in report.sentence
    assert not report.problems


def test_no_table_and_no_picture_mixes_two_forms(tmp_path: Path) -> None:
    cell(tmp_path, "magic_number", 4096, 1)
    cell(tmp_path, "many_depths", 4096, 1, right=0.0)
    report = build_report(tmp_path)
    shown = {name: grid for name, grid in report.grids.items() if "accuracy" in name}
    assert [name.split(":")[0] for name in shown] == [
        "one needle in a haystack, magic_number", "needles at many depths of one haystack",
    ]  # fmt: skip
    assert [grid[1][0][1].split(" ")[0] for grid in shown.values()] == ["100.0", "0.0"]
    assert {path.name for path in report.files if path.suffix == ".png"} == {
        "heatmap-magic_number.png", "heatmap-many_depths.png",
    }  # fmt: skip
