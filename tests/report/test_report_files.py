"""Tables, heat map and verdict from files written by hand."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from needle_run import Run, expected
from runs_by_hand import write

from reattention_eval.errors import DataError
from reattention_eval.report import build_report, latest_work_dir
from reattention_eval.report.frame import make_frame
from reattention_eval.report.heatmap import draw_heatmap, heatmap, needle_grid
from reattention_eval.report.progress import progress_line
from reattention_eval.report.records import read_records
from reattention_eval.report.run import read_run
from reattention_eval.report.tables import csv_table, grids

ACCURACY = "accuracy, %"
NLL = "answer NLL per token (lower is better)"


def test_the_readers_table(whole: Run) -> None:
    tables = grids(make_frame(read_run(whole.folder, expected(whole))))
    assert tables == {
        ACCURACY: (
            ["method", "4,096", "12,288"],
            [
                ["full", "100.0 [44, 100] (n=3)", "0.0 [0, 56] (n=3)"],
                [
                    "reattention 4,096",
                    "100.0 [44, 100] (n=3, never selected)",
                    "50.0 [0, 100] (n=3, selected 100%)",
                ],
            ],
        ),
        NLL: (
            ["method", "4,096", "12,288"],
            [
                ["full", "1.00 (n=3)", "2.00 (n=3)"],
                [
                    "reattention 4,096",
                    "1.00 (n=3, never selected)",
                    "1.50 [0.16, 2.84] (n=3, selected 100%)",
                ],
            ],
        ),
    }


def test_cells_in_which_no_sample_selected_are_marked_and_explained(whole: Run) -> None:
    records = whole.path("records", "m-reattention", "needle-12288.jsonl")
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    lines[0]["layer_steps_selected"] = 0
    lines[0]["must_select"] = False
    records.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = build_report(whole.folder, expected(whole))
    page = whole.path("report", "table.md").read_text()
    assert "100.0 [44, 100] (n=3, never selected) | 50.0 [0, 100] (n=3, selected 66%)" in page
    assert any("full attention in effect" in note for note in report.notes)
    rows = list(csv.DictReader(io.StringIO(csv_table(make_frame(read_run(whole.folder))))))
    shares = {(r["method"], r["length"]): (r["n_selected"], r["selected_share"]) for r in rows}
    assert shares == {
        ("full", "4096"): ("0", "0"), ("full", "12288"): ("0", "0"),
        ("reattention 4,096", "4096"): ("0", "0"),
        ("reattention 4,096", "12288"): ("2", "0.666667"),
    }  # fmt: skip


def test_failed_samples_are_counted_in_the_table(whole: Run) -> None:
    records = whole.path("records", "m-full", "needle-4096.jsonl")
    line = {"index": 2, "error": "NonFiniteLogitsError: the logits are NaN"}
    records.write_text(records.read_text() + json.dumps(line) + "\n")
    for room in ("predictions", "results"):
        whole.path(room, "m-full", "needle-4096.json").unlink()
    report = build_report(whole.folder, expected(whole))
    assert report.grids[ACCURACY][1][0][1] == "failed (1 of 3 samples)"
    assert "1 of 3 samples failed (sample 2: NonFiniteLogitsError" in report.problems[0]
    rows = list(csv.DictReader(io.StringIO(csv_table(make_frame(read_run(whole.folder))))))
    assert [(r["metric"], r["n_failed"]) for r in rows if r["n_failed"] != "0"] == [("failed", "1")]


def test_a_figure_that_is_not_a_number_stays_and_is_a_problem(whole: Run) -> None:
    path = whole.path("results", "m-full", "needle-4096.json")
    write(path, {**json.loads(path.read_text()), "answer_nll": float("nan")})
    report = build_report(whole.folder, expected(whole))
    assert report.grids[NLL][1][0][1] == "nan (n=3)"
    assert report.problems == [
        "m-full on needle-4096: the figure answer_nll is not a number (NaN); look at the samples' "
        "records."
    ]


def test_the_csv_holds_every_figure(whole: Run) -> None:
    frame = make_frame(read_run(whole.folder, expected(whole)))
    rows = list(csv.DictReader(io.StringIO(csv_table(frame))))
    assert len(rows) == 4 * 2
    cell = next(r for r in rows if r["method"].startswith("re") and r["length"] == "12288")
    assert (cell["metric"], cell["value"], cell["n"]) == ("accuracy", "50", "3")
    assert cell["prefill_seconds"] == "2"
    assert cell["first_token_seconds"] == "2"  # the median of 1, 2 and 3
    # a sample that is half right
    assert (cell["low"], cell["high"], cell["interval"]) == ("0", "100", "bootstrap")
    right = next(r for r in rows if r["method"] == "full" and r["metric"] == "accuracy")
    assert (right["low"], right["high"], right["interval"]) == ("43.8503", "100", "wilson")
    assert cell["budget"] == "4096"


def test_the_report_is_written_and_made_again_from_files_alone(whole: Run) -> None:
    first = build_report(whole.folder, expected(whole))
    assert first.problems == []
    assert {p.name for p in first.files} == {
        "table.csv", "table.md", "manifest.json", "heatmap.png",
    }  # fmt: skip
    before = {p.name: p.read_bytes() for p in first.files if p.suffix != ".png"}
    again = build_report(whole.folder)
    assert {p.name: p.read_bytes() for p in again.files if p.suffix != ".png"} == before


def test_what_another_command_put_there_is_reported_too(whole: Run) -> None:
    every = expected(whole)
    last = every[-1:]
    assert [(c.model, c.dataset) for c in read_run(whole.folder, last)] == last
    build_report(whole.folder, last)  # the second command was for this one alone
    (records,) = whole.folder.glob(f"records/{last[0][0]}/{last[0][1]}.jsonl")
    shutil.copy(records, records.with_name(f"{last[0][1]}_0.jsonl"))  # a part of it
    found = [(cell.model, cell.dataset) for cell in read_run(whole.folder)]
    assert found[:1] == last and sorted(found) == sorted(every)


def test_the_sentence_says_what_lies_beyond_the_window(whole: Run) -> None:
    words = build_report(whole.folder, expected(whole)).sentence
    assert "windows of 8,192 tokens, so the 12,288 column reads past" in words
    assert "n = 3 prompts a cell" in words
    assert words.count(". ") == 0  # one sentence
    whole.cell("full", 65536, [0.0] * 3)
    words = build_report(whole.folder, [*expected(whole), ("m-full", "needle-65536")]).sentence
    assert "the columns from 12,288 on read past" in words


def test_columns_go_by_length_also_without_an_order(whole: Run) -> None:
    header, _ = grids(make_frame(read_run(whole.folder)))[ACCURACY]
    assert header == ["method", "4,096", "12,288"]


def test_cut_prompts_are_counted(whole: Run) -> None:
    records = whole.path("records", "m-full", "needle-4096.jsonl")
    line = {"index": 2, "n_tokens": 4000, "n_cut": 96}
    records.write_text(records.read_text() + json.dumps(line) + "\n")
    report = build_report(whole.folder, expected(whole))
    note = "1 of 12 prompts were longer than allowed and lost their middle."
    assert report.notes[1] == note
    assert note in whole.path("report", "table.md").read_text()


def test_samples_of_several_programs_are_named(whole: Run) -> None:
    build_report(whole.folder, expected(whole))
    assert "Not one program" not in whole.path("report", "table.md").read_text()
    path = whole.path("records", "m-full", "needle-4096.manifest.json")
    manifest = json.loads(path.read_text())
    made = [
        dict(commit="a" * 40, versions={"torch": "2.9"}, samples_to_run=1),
        dict(commit="b" * 40 + "+changes", versions={"torch": "2.9"}, samples_to_run=2),
        dict(commit="c" * 40, versions={"torch": "2.8"}, samples_to_run=0),  # nothing was left
    ]
    write(path, {**manifest, "environment": made})
    report = build_report(whole.folder, expected(whole))
    words = "Not one program made all samples: 2 commits (aaaaaaa, bbbbbbb+changes);"
    assert report.notes[-1].startswith(words)
    assert words in whole.path("report", "table.md").read_text()


def test_means_of_the_heat_map(whole: Run, tmp_path: Path) -> None:
    cells = read_run(whole.folder, expected(whole))
    ours = [c for c in cells if c.model == "m-reattention"]
    grid = needle_grid(ours, "accuracy")
    assert grid[0.0, 12288] == (100.0, 1)
    assert grid[50.0, 12288] == (0.0, 1)
    assert len(grid) == 6
    names = list(dict.fromkeys(cell.dataset for cell in cells))
    picture = draw_heatmap(make_frame(cells), names, tmp_path / "a" / "h.png")
    assert picture is not None
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_colour_bars_of_a_wrapped_heat_map_stand_beside_its_panels(
    whole: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole.cell("full", 4096, [100.0, 0.0, 0.0], abbr="m-other", settings={"chunk_size": 64})
    monkeypatch.setattr("reattention_eval.report.heatmap.PANELS_ACROSS", 2)
    cells = read_run(whole.folder)
    drawn = heatmap(make_frame(cells), list(dict.fromkeys(cell.dataset for cell in cells)))
    drawn.draw_without_rendering()
    every = [*drawn.axes, *(own for axis in drawn.axes for own in axis.child_axes)]
    bars = [a.get_window_extent() for a in every if hasattr(a, "_colorbar")]
    panels = [a.get_window_extent() for a in every if a.get_xlabel() or a.texts]
    assert (len(bars), len(panels)) == (4, 6)  # two figures of each method
    for bar in bars:
        beside = [panel for panel in panels if abs(panel.y0 - bar.y0) < 2]
        assert 0 < bar.x0 - max(panel.x1 for panel in beside) < bar.height / 3


def test_no_heat_map_without_depths(run: Run, tmp_path: Path) -> None:
    run.cell("full", 4096, [1.0, 2.0, 3.0])
    path = run.path("results", "m-full", "needle-4096.json")
    write(path, {"f1": 12.5})
    report = build_report(run.folder)
    assert not any(p.suffix == ".png" for p in report.files)
    assert report.grids["f1"] == (["method", "4,096"], [["full", "12.5 (n=3)"]])
    assert "each column a dataset" in report.sentence


def test_without_matplotlib_the_tables_still_come(
    whole: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    report = build_report(whole.folder, expected(whole))
    assert "reattention-eval[report]" in report.notes[-1]
    assert whole.path("report", "table.md").is_file()


def test_two_settings_of_a_method_are_told_apart(run: Run) -> None:
    for local in (512, 1024):
        run.cell(
            "reattention", 12288, [100.0] * 3, abbr=f"m-{local}",
            settings={"local_size": local, "top_k": 4},
        )  # fmt: skip
    rows = grids(make_frame(read_run(run.folder)))[ACCURACY][1]
    assert sorted(row[0] for row in rows) == [
        "reattention 4,096 (local_size=1024)", "reattention 4,096 (local_size=512)",
    ]  # fmt: skip


def test_lines_cut_by_a_kill_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"index": 0, "a": "x\xe2\x80\xa8y"}\n{"index": 1, "a"')
    assert read_records(path) == {0: {"index": 0, "a": "x\u2028y"}}


def test_the_newest_run_is_taken(tmp_path: Path) -> None:
    for name in ("20260101_000000", "20260102_000000"):
        (tmp_path / name / "configs").mkdir(parents=True)
    (tmp_path / "tmp").mkdir()
    assert latest_work_dir(tmp_path).name == "20260102_000000"
    assert latest_work_dir(tmp_path / "20260101_000000").name == "20260101_000000"
    with pytest.raises(DataError, match="holds no run"):
        latest_work_dir(tmp_path / "tmp")


def test_progress_of_the_dataset_begun_last(whole: Run) -> None:
    assert progress_line(whole.folder / "none") == ""
    assert ": 3 of 3 prompts" in progress_line(whole.folder)
