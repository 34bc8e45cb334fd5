"""A report that is made again leaves nothing of the one before."""

from __future__ import annotations

from pathlib import Path

from runs_by_hand import leave_cell

from reattention_eval.report import build_joint_report, build_report

NEEDLE = {"benchmark": "needle", "task": "many_depths", "style": "many_depths", "length": 4096}


def needles(run: Path, right: int) -> None:
    details = [
        {"index": i, "score": 100.0 * (i < right), "depth": 50.0, "correct": i < right}
        for i in range(4)
    ]
    result = {"accuracy": 25.0 * right, "score": 25.0 * right, "n": 4}
    facts = {**NEEDLE, "depths": [50.0], "repeats": 4}
    leave_cell(run, "full", "needle-4096", details, facts=facts, result=result)


def test_a_page_says_what_the_tables_say(tmp_path: Path) -> None:
    """Also where it was asked for the first time alone; where none is there none is made."""
    needles(tmp_path, 3)
    build_report(tmp_path)
    page = tmp_path / "report" / "report.html"
    assert not page.exists()
    build_report(tmp_path, page=True)
    assert "75.0" in page.read_text()
    needles(tmp_path, 1)
    report = build_report(tmp_path)
    assert "25.0" in page.read_text() and "75.0" not in page.read_text()
    assert page in report.files


def test_what_this_report_does_not_make_is_gone(tmp_path: Path) -> None:
    """Of what reports write; what other commands left there stays."""
    run, into = tmp_path / "run", tmp_path / "into"
    needles(run, 3)
    first = {path.name for path in build_joint_report([run], into, by_family=True).files}
    assert "families.png" in first
    for name in ("at_length.png", "averages.csv", "heatmap.png", "heatmap-needle.png"):
        (into / name).write_bytes(b"an earlier report's, of more cells")
    (into / "curve.png").write_bytes(b"another command's")
    second = {path.name for path in build_joint_report([run], into).files}
    assert "families.png" not in second
    assert {path.name for path in into.iterdir()} == {*second, "curve.png"}
