"""Tables of benchmarks with tasks in groups: averages, what is missing, which score."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from reattention_eval.cli import console as cli_console
from reattention_eval.report import Report
from reattention_eval.report.benchmarks import averages_csv, benchmark_grids
from reattention_eval.report.frame import make_frame
from reattention_eval.report.predictions import Predicted
from reattention_eval.report.run import Cell

GROUPS = {"qa": ["a", "b"], "code": ["c"]}


def cell(
    model: str, task: str, result: dict[str, Any], length: int = 31500, **settings: Any
) -> Cell:
    group = next(name for name, tasks in GROUPS.items() if task in tasks)
    facts = {"benchmark": "bench", "task": task, "group": group, "length": length}
    manifest = {
        "model": {"name": "M", "settings": settings},
        "method": {"name": model.split("-")[1], "budget": None, "settings": {}},
        "dataset": facts,
    }
    return Cell(model, f"bench-{task}-{length}-x", Predicted(bool(result)), result, manifest, {})


def test_averages_by_hand() -> None:
    cells = [
        cell("m-full", "a", {"score": 10.0, "f1": 10.0, "n": 2}, max_prompt_tokens=7500),
        cell("m-full", "b", {"score": 20.0, "n": 2}, max_prompt_tokens=7500),
        cell("m-full", "c", {"score": 60.0, "n": 3}, max_prompt_tokens=7500),
        cell("m-other", "a", {"score": 1.0, "n": 2}),
        cell("m-other", "c", {"score": 3.0, "n": 3}),
    ]
    grids = benchmark_grids(make_frame(cells))
    assert grids == {
        "bench, 31,500 tokens, official score": (
            ["method", "a", "b", "c", "all tasks (3)"],
            [
                ["full (prompts cut to 7,500)", "10.00 (n=2)", "20.00 (n=2)", "60.00 (n=3)",
                 "30.00 (n=7)"],
                ["other", "1.00 (n=2)", "-", "3.00 (n=3)", "-"],
            ],
        )
    }  # fmt: skip
    lines = [line.rsplit(",", 10)[1:5] for line in averages_csv(make_frame(cells)).splitlines()[1:]]
    assert lines == [
        ["qa", "2", "4", "15"], ["code", "1", "3", "60"], ["all tasks", "3", "7", "30"],
        ["all groups", "3", "7", "37.5"],
        ["code", "1", "3", "3"],
    ]  # fmt: skip


def test_many_tasks_have_their_averages_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reattention_eval.report.benchmarks._FEW", 2)
    cells = [cell("m-full", task, {"score": 8.0, "n": 1}) for task in "abc"]
    heads = {heading: grid[0] for heading, grid in benchmark_grids(make_frame(cells)).items()}
    assert heads == {
        "bench, 31,500 tokens, official score: averages (of so many tasks)": [
            "method", "qa (2)", "code (1)", "all tasks (3)", "all groups (2)",
        ],
        "bench, 31,500 tokens, official score: tasks": ["method", "a", "b", "c"],
    }  # fmt: skip


def test_two_scorings_have_a_table_each() -> None:
    cells = [
        cell("m-full", "a", {"opencompass_score": 5.0, "n": 1}),
        cell("m-full", "b", {"score": 7.0, "n": 1}),  # OpenCompass has no rule for it
        cell("m-full", "c", {}),
    ]
    grids = benchmark_grids(make_frame(cells))
    assert {heading: grid[0][1:-1] for heading, grid in grids.items()} == {
        "bench, 31,500 tokens, official score": ["b", "c"],
        "bench, 31,500 tokens, OpenCompass's score": ["a", "c"],
    }
    assert all(grid[1][0][-1] == "-" for grid in grids.values())


def test_several_lengths_side_by_side() -> None:
    cells = [
        cell(model, task, {"score": value, "n": 1}, length)
        for model, task, length, value in (
            ("m-full", "a", 4096, 10.0), ("m-full", "b", 4096, 30.0), ("m-full", "a", 8192, 5.0),
            ("m-other", "a", 8192, 7.0),
        )
    ]  # fmt: skip
    made = benchmark_grids(make_frame(cells))
    grid = made["bench, official score: average of all tasks by tokens"]
    assert grid == (
        ["method", "4,096", "8,192"],
        [
            ["full", "20.00 (2 tasks, n=2)", "5.00 (1 task, n=1)"],
            ["other", "-", "7.00 (1 task, n=1)"],
        ],
    )


@pytest.mark.parametrize(("width", "said"), [(60, True), (200, False)])
def test_a_table_that_is_too_wide_stands_on_its_side(
    monkeypatch: pytest.MonkeyPatch, width: int, said: bool
) -> None:
    grid = ["method", *"abcdefgh"], [["full", *["33.33 (n=3)"] * 8]]
    console = Console(width=width, record=True, file=io.StringIO())
    monkeypatch.setattr(cli_console, "out", console)
    cli_console.show_report(Report({"scores": grid}, "", [], [], [], make_frame([])))
    text = console.export_text()
    assert ("columns stand as rows" in text) == said
    assert text.count("33.33 (n=3)") == 8
