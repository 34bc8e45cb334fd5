"""Reports by family: methods of one kind together, a method cut beyond the window in one row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from runs_by_hand import leave_cell
from typer.testing import CliRunner

from reattention_eval.cli.app import app
from reattention_eval.report import at_length, build_joint_report
from reattention_eval.report.curve import pictures

NEEDLE = "needles at many depths of one haystack"


def needles(
    folder: Path, method: str, length: int, hits: list[int], family: str, **own: Any
) -> None:
    details = [
        {"accuracy": 100.0 * hit, "answer_nll": 1.0 - hit / 2, "length": length, "depth": 10.0 * i}
        for i, hit in enumerate(hits)
    ]
    facts = {"benchmark": "needle", "task": "many_depths", "length": length, "fingerprint": length}
    records = [
        {"index": i, "prediction": "7", "n_tokens": length, "decode_view": 99.6, "keys_kept": 512,
         "cache_bytes": 2**29, "prefill_seconds": 1.5, "decode_tokens_per_second": 10,
         "peak_bytes": 2**31}
        for i in range(len(hits))
    ]  # fmt: skip
    cut = own.pop("cut", None)
    leave_cell(
        folder, method, f"needle-{length}", details, facts=facts, records=records,
        result={
            "accuracy": 100.0 * sum(hits) / len(hits),
            "answer_nll": sum(d["answer_nll"] for d in details) / len(hits), "n": len(hits),
        },
        own={"settings": {"max_prompt_tokens": cut}}, **own,
    )  # fmt: skip
    (path,) = folder.glob(f"records/*-{method}/needle-{length}.manifest.json")
    manifest = json.loads(path.read_text())
    manifest["method"] |= {"family": family, "name": method.partition("-")[0]}
    path.write_text(json.dumps(manifest))


def test_what_has_not_begun_stands_in_its_family(tmp_path: Path) -> None:
    needles(tmp_path, "full", 4096, [1, 1], "full attention")
    model, name = next((tmp_path / "records").iterdir()).name, "snapkv-512-0123abcd"
    checkpoint = model.removesuffix("-full")
    cells = [[model, "needle-4096"], [f"{checkpoint}-{name}", "needle-4096"]]
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "expected.json").write_text(json.dumps({"cells": cells}))
    report = build_joint_report([tmp_path], tmp_path / "out", by_family=True)
    rows = [row[:2] for row in report.grids[f"{NEEDLE}: accuracy, %"][1]]
    assert [row[0] for row in rows][1::2] == ["full", "snapkv 512 (0123abcd)"]
    assert rows[2][0] == "eviction, inside the trained window" and rows[3][1] == "missing"
    assert f"Each row is {checkpoint} under" in report.sentence


def test_one_command_makes_table_and_plot_by_family(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for length in (4096, 16384):
        needles(run, "full", length, [1, 1], "full attention")
        needles(run, "oracle", length, [1, 1], "upper bound, no method")
        needles(run, "snapkv", length, [0, 1], "eviction, inside the trained window", budget=512)
        needles(run, "reattention", length, [1, 0], "beyond the trained window", budget=512)
    needles(run, "own", 4096, [0, 0], "")
    done = CliRunner().invoke(
        app, ["report", str(run), "--by-family", "--into", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"table.md", "table.csv", "manifest.json", "families.png"} <= names
    assert not any(name.startswith("heatmap") for name in names)
    lines = (tmp_path / "out" / "table.md").read_text().splitlines()
    start = lines.index(f"**{NEEDLE}: accuracy, %**")
    first = [line.split(" | ")[0].removeprefix("| ") for line in lines[start + 4 : start + 14]]
    assert first == [
        "**full attention**", "full", "**beyond the trained window**", "reattention 512",
        "**eviction, inside the trained window**", "snapkv 512", "**upper bound, no method**",
        "oracle", "**other methods**", "own",
    ]  # fmt: skip
    text = "\n".join(lines)
    for heading in ("keys attended", "keys kept", "bytes of keys", "time to the first", "peak"):
        assert f"**{NEEDLE}: {heading}" in text
    assert "| snapkv 512 | 100 | 100 |" in text and "| snapkv 512 | 0.500 | 0.500 |" in text


def test_seconds_are_left_out_where_they_are_no_methods(tmp_path: Path) -> None:
    needles(tmp_path / "run", "full", 4096, [1, 1], "full attention")
    made = build_joint_report([tmp_path / "run"], tmp_path / "out", by_family=True, times=False)
    headings = " ".join(made.grids)
    assert "peak memory" in headings and "seconds" not in headings
    assert "Seconds are left out" in (tmp_path / "out" / "table.md").read_text()


def test_a_method_cut_beyond_the_window_is_one_row(tmp_path: Path) -> None:
    needles(tmp_path, "full", 4096, [1, 1], "full attention")
    needles(tmp_path, "full-cut", 16384, [0, 1], "full attention", cut=7500)
    rows = build_joint_report([tmp_path], tmp_path / "a", by_family=True).grids[
        f"{NEEDLE}: accuracy, %"
    ][1]
    assert [row[0] for row in rows] == ["full attention", "full"]
    assert rows[1][1].endswith("(n=2)") and rows[1][2].endswith("(n=2, cut to 7,500)")
    # asked both ways, they stay two
    needles(tmp_path, "full", 16384, [0, 0], "full attention")
    rows = build_joint_report([tmp_path], tmp_path / "b", by_family=True).grids[
        f"{NEEDLE}: accuracy, %"
    ][1]
    assert [row[0] for row in rows[1:]] == ["full", "full (max_prompt_tokens=7500)"]


def test_a_plot_of_one_family_has_room_for_its_title(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needles(tmp_path / "run", "streaming_llm-512", 16384, [1, 0], "beyond the trained window")
    drawn: list[Any] = []
    monkeypatch.setattr(pictures, "save_picture", lambda figure, path, dpi: drawn.append(figure))
    build_joint_report([tmp_path / "run"], tmp_path / "out", by_family=True)
    (figure,) = drawn
    figure.draw_without_rendering()
    title = figure.get_suptitle()
    assert "score against length" in title.replace("\n", " ")
    box = figure._suptitle.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1


def test_methods_stand_side_by_side_at_a_length_that_most_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, evicts = "beyond the trained window", "eviction, inside the trained window"
    for name in ("streaming_llm-512", "dca-", "infllm-512"):
        for length in (8192, 16384):
            needles(tmp_path / "run", name, length, [1, 0], family)
    needles(tmp_path / "run", "snapkv-512", 16384, [1, 1], evicts)
    needles(tmp_path / "run", "dca-", 65536, [1, 1], family)  # longer, and nobody else
    drawn: dict[str, Any] = {}
    save = lambda figure, path, dpi: drawn.update({path.name: figure})  # noqa: E731
    monkeypatch.setattr(at_length, "save_picture", save)
    made = build_joint_report([tmp_path / "run"], tmp_path / "out", by_family=True)
    assert [path.name for path in made.files][-2:] == ["families.png", "at_length.png"]
    figure = drawn["at_length.png"]
    assert figure.get_suptitle().endswith("all methods at 16,384 tokens")
    axis, *_ = figure.axes  # of what was found
    rows = [label.get_text() for label in axis.get_yticklabels()]
    assert rows == ["dca", "infllm", "streaming_llm", "snapkv"]
    dots = {
        line.get_ydata()[0]: line.get_xdata()[0]
        for line in axis.lines
        if line.get_marker() == "o" and len(line.get_xdata()) == 1
    }
    assert dots == {0: 50.0, 1: 50.0, 2: 50.0, 3: 100.0}


def test_a_plots_legend_names_the_lines_of_every_panel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = "beyond the trained window"
    needles(tmp_path / "run", "streaming_llm-512", 16384, [1, 0], family)
    needles(tmp_path / "run", "dca-", 16384, [1, 1], family)
    leave_cell(
        tmp_path / "run", "dca-", "ruler-vt-16384", [{"score": 50.0}] * 2,
        facts={"benchmark": "ruler", "task": "vt", "length": 16384},
        result={"score": 50.0, "n": 2},
    )  # fmt: skip
    (path,) = tmp_path.glob("run/records/*-dca-/ruler*.manifest.json")
    manifest = json.loads(path.read_text())
    manifest["method"] |= {"family": family, "name": "dca"}
    path.write_text(json.dumps(manifest))
    drawn: list[Any] = []
    monkeypatch.setattr(pictures, "save_picture", lambda figure, path, dpi: drawn.append(figure))
    build_joint_report([tmp_path / "run"], tmp_path / "out", by_family=True)
    (figure,) = drawn
    legends = [axis.get_legend() for axis in figure.axes if axis.get_legend()]
    assert len(figure.axes) == 3
    assert [{text.get_text() for text in legend.get_texts()} for legend in legends] == [
        {"streaming_llm", "dca"}
    ]


def test_a_manifest_of_an_earlier_version_says_no_family(tmp_path: Path) -> None:
    needles(tmp_path / "run", "full-", 16384, [1, 0], "")
    needles(tmp_path / "run", "elsewhere-", 16384, [0, 0], "")
    build_joint_report([tmp_path / "run"], tmp_path / "out", by_family=True)
    lines = [
        line.split("|")[1].strip()
        for line in (tmp_path / "out" / "table.md").read_text().splitlines()
        if line.startswith("| ")
    ]
    assert lines[2:6] == ["**full attention**", "full", "**other methods**", "elsewhere"]
