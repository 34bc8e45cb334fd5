"""Commands that compute nothing start without what computes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "opencompass", "mmengine", "numpy", "pandas", "matplotlib")
CODE = """
import sys
from reattention_eval.cli import app
try:
    app(sys.argv[2:], prog_name="reattention-eval")
except SystemExit as end:
    status = end.code
import json
print(json.dumps([status, [name for name in sys.argv[1].split() if name in sys.modules]]))
"""


def started(*words: str) -> tuple[list[object], str]:
    """[status, heavy modules in use at the end], and what was printed before."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, " ".join(HEAVY), *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    *said, last = done.stdout.strip().splitlines()
    return json.loads(last), "\n".join(said)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--help"], "report"),
        (["methods", "--help"], "methods"),
        (["methods"], "streaming_llm"),
        (["report", "--help"], "--html"),
        (["plan", "--help"], "--gpu-memory"),
        (["slurm", "--help"], "--partition"),
        (["bench", "e2e", "--help"], "--only"),
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_imported(words: list[str], says: str) -> None:
    (status, heavy), said = started(*words)
    assert status == 0
    assert says in said
    assert heavy == []


def test_a_report_needs_no_model(tmp_path: Path) -> None:
    """Tables are made wherever a run's files are; pictures need matplotlib, where it is there."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "results" / "m").mkdir(parents=True)
    (tmp_path / "results" / "m" / "d.json").write_text('{"accuracy": 75.0, "n": 4}')
    (tmp_path / "predictions" / "m").mkdir(parents=True)
    (tmp_path / "predictions" / "m" / "d.json").write_text('{"0": {}}')
    (status, heavy), _ = started("report", str(tmp_path))
    assert status == 0
    assert not {"torch", "transformers", "opencompass", "mmengine"} & set(heavy)


def test_the_heavy_names_are_what_a_model_needs() -> None:
    """What the other tests look for is in use where a model is run."""
    code = "import sys; from reattention_eval import attach; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "True"
