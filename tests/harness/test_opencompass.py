"""Whole runs of the command `opencompass`: what it leaves, and what its exit status says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from reattention_eval.cli import app
from reattention_eval.cli.configs import config_path

TESTS = Path(__file__).parents[1]


def opencompass(
    config: Path, *words: str, cwd: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS), "CUDA_VISIBLE_DEVICES": "",
        **variables,
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "opencompass.cli.main", str(config), *words],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=400,
    )  # fmt: skip


@pytest.fixture(scope="module")
def demo(
    checkpoint: Path, haystack: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str], dict[str, str]]:
    """The demo configuration on the tiny model, from a strange working directory."""
    cwd = tmp_path_factory.mktemp("somewhere")
    variables = {
        "REATTENTION_RUN_MODEL": str(checkpoint),
        "REATTENTION_HAYSTACK": str(haystack),
        "REATTENTION_LENGTHS": "600,4700",
        "REATTENTION_DEPTHS": "20,80",
        "REATTENTION_REPEATS": "1",
        "REATTENTION_ONLY_METHODS": "full,reattention",
        # nothing of the real cache may be needed
        "REATTENTION_CACHE": str(cwd / "cache"),
    }
    done = opencompass(config_path("eval_demo.py"), cwd=cwd, **variables)
    runs = sorted((cwd / "outputs" / "demo").glob("*"))
    assert runs, done.stdout + done.stderr
    return runs[-1], done, variables


def viz(run: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Only the summarizer, over a run's files."""
    words = ("-m", "viz", "-r", run.name, "-w", str(run.parent))
    return opencompass(config_path("eval_demo.py"), *words, cwd=run.parent, **variables)


def test_the_demo_configuration_runs(demo: Any) -> None:
    run, done, _ = demo
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Each row is tiny-llama under one long-context method" in done.stdout
    for name in ("table.csv", "table.md", "heatmap.png", "manifest.json"):
        assert (run / "report" / name).stat().st_size > 0
    assert {p.suffix for p in (run / "summary").iterdir()} == {".txt", ".csv", ".md"}
    assert len(list((run / "logs" / "infer").glob("*/*.out"))) == 2  # one process a method


def test_selection_began_beyond_the_scope_and_only_there(demo: Any) -> None:
    run, _, _ = demo
    steps: dict[tuple[str, int], set[bool]] = {}
    for path in (run / "records").glob("*/*.jsonl"):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            key = (path.parent.name.split("-")[2], record["n_tokens"])
            steps.setdefault(key, set()).add(record["layer_steps_selected"] > 0)
    assert steps == {
        ("full", 600): {False}, ("full", 4700): {False},
        ("reattention", 600): {False}, ("reattention", 4700): {True},
    }  # fmt: skip


def test_tables_made_again_are_equal(demo: Any, tmp_path: Path) -> None:
    run, _, _ = demo
    copy = shutil.copytree(run, tmp_path / "elsewhere" / run.name)
    before = {p.name: p.read_bytes() for p in (copy / "report").glob("table.*")}
    for path in (copy / "report").iterdir():
        if path.name != "expected.json":
            path.unlink()
    result = CliRunner().invoke(app, ["report", str(copy.parent)])
    assert result.exit_code == 0, result.output
    assert {p.name: p.read_bytes() for p in (copy / "report").glob("table.*")} == before
    assert (copy / "report" / "heatmap.png").is_file()


def test_a_missing_result_and_a_silent_method_end_with_status_1(demo: Any, tmp_path: Path) -> None:
    run, _, variables = demo
    copy = shutil.copytree(run, tmp_path / "runs" / run.name)
    removed = next((copy / "results").glob("*-full-*/needle-magic_number-600-*.json"))
    removed.unlink()
    silent = next((copy / "records").glob("*-reattention-*/needle-magic_number-4700-*.jsonl"))
    lines = [json.loads(line) for line in silent.read_text().splitlines()]
    silent.write_text(
        "".join(json.dumps({**line, "layer_steps_selected": 0}) + "\n" for line in lines)
    )
    done = viz(copy, variables)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{removed.parent.name} on {removed.stem}: predicted and not scored" in done.stderr
    assert "2 of 2 prompts are longer than reattention may attend to" in done.stderr
    assert (copy / "report" / "table.md").is_file()
    assert "Missing or failed" in (copy / "report" / "table.md").read_text()


FAILING = """
summarizer = dict(type='reattention_eval.harness.LongContextSummarizer')
models = [dict(type='reattention_eval.harness.LongContextLM', abbr='tiny', path={path!r},
               dtype='float32', run_cfg=dict(num_gpus=0))]
datasets = [
    dict(abbr=name, type='row_dataset.RowDataset',
         rows=[dict(prompt='the dog', answer='x'), dict(prompt=second, answer='x')],
         reader_cfg=dict(input_columns=['prompt'], output_column='answer'),
         infer_cfg=dict(
             prompt_template=dict(
                 type='opencompass.openicl.icl_prompt_template.PromptTemplate', template='x'),
             retriever=dict(type='opencompass.openicl.icl_retriever.ZeroRetriever'),
             inferencer=dict(type='reattention_eval.harness.LongContextGenInferencer',
                             prompt_column='prompt', max_out_len=2)),
         eval_cfg=dict(evaluator=dict(
             type='opencompass.openicl.icl_evaluator.AccEvaluator')))
    for name, second in (('bad', ' '), ('good', 'the fox'))
]
infer = dict(
    partitioner=dict(type='opencompass.partitioners.NaivePartitioner', n=1000),
    runner=dict(type='opencompass.runners.LocalRunner', max_num_workers=1,
                task=dict(type='reattention_eval.harness.tasks.LongContextInferTask')))
eval = dict(
    partitioner=dict(type='opencompass.partitioners.NaivePartitioner', n=1000),
    runner=dict(type='opencompass.runners.LocalRunner', max_num_workers=1,
                task=dict(type='reattention_eval.harness.tasks.LongContextEvalTask')))
"""


def test_a_failing_sample_ends_opencompass_with_status_1(checkpoint: Path, tmp_path: Path) -> None:
    config = tmp_path / "failing.py"
    config.write_text(FAILING.format(path=str(checkpoint)))
    done = opencompass(config, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "tiny on bad: 1 of 2 samples failed (sample 1: ConfigError: the prompt is empty" in (
        done.stderr
    )
    run = next((tmp_path / "outputs" / "default").iterdir())
    assert not (run / "predictions" / "tiny" / "bad.json").exists()
    assert json.loads((run / "results" / "tiny" / "good.json").read_text())["accuracy"] == 0
