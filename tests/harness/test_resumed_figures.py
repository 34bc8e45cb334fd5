"""What a sample's record says does not depend on what was read before it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reattention_eval.harness import LongContextLM, Sample
from reattention_eval.harness.record_file import records_path
from reattention_eval.harness.tasks import LongContextInferTask, infer_task
from reattention_eval.report.records import read_records

METHODS = [
    dict(type="full", chunk_size=16),
    dict(type="reattention", global_size=4, local_size=32, span_size=8, top_k=2, max_spans=4,
         chunk_size=16),
    dict(type="streaming_llm", sink_size=4, window_size=40, chunk_size=16),
]  # fmt: skip
DOCUMENT = " ".join(f"The dog {i} thinks of the fox." for i in range(30))
FIGURES = ("layer_steps", "layer_steps_selected", "mean_view", "answer_nll", "n_tokens")


def documents(n: int) -> list[dict[str, Any]]:
    """Questions behind one document, and now and then another beginning."""
    return [
        {"prompt": f"{DOCUMENT[0 if i % 4 else i :]} Question {i}?" + " why" * i, "answer": "fox"}
        for i in range(n)
    ]


def figures(records: dict[int, dict[str, Any]]) -> dict[int, list[Any]]:
    return {i: [record[name] for name in FIGURES] for i, record in records.items()}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["type"])
def test_a_reused_prefix_counts_like_one_that_is_read(
    checkpoint: Path, method: dict[str, Any]
) -> None:
    lm = LongContextLM(path=str(checkpoint), dtype="float32", method=method)
    samples = [Sample(row["prompt"], answer=row["answer"]) for row in documents(6)]
    warm = [lm.run([sample], 3)[0].record for sample in samples]
    cold = []
    for sample in samples:
        lm.session.reset()
        cold.append(lm.run([sample], 3)[0].record)
    assert sum(record["reused_tokens"] > 0 for record in warm) >= 3
    assert not any(record["reused_tokens"] for record in cold)
    assert figures(dict(enumerate(warm))) == figures(dict(enumerate(cold)))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_resumed_run_says_what_an_uninterrupted_one_says(
    task_config: Callable[..., Any], batch_size: int
) -> None:
    config = task_config(documents(7), batch_size=batch_size, method=METHODS[1])
    predictions = Path(config.work_dir) / "predictions" / "tiny" / "rows.json"
    path = records_path(predictions.parent, predictions.name)
    LongContextInferTask(config).run()
    whole = figures(read_records(path))
    lines = path.read_bytes().splitlines(keepends=True)
    for kept in (0, 3, 4, 5, 6):  # a kill in the middle of a batch's lines, too
        predictions.unlink()
        path.write_bytes(b"".join(lines[:kept]) + lines[kept][:50])
        LongContextInferTask(config).run()
        assert figures(read_records(path)) == whole


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ours", "GenInferencer"])
def test_a_storm_of_kills_changes_no_record(
    task_config: Callable[..., Any], tmp_path: Path, kind: str
) -> None:
    """Processes killed at random moments, until one comes through."""
    rows = documents(60)
    column = {"answer_column": "answer"} if kind == "ours" else {}
    config = task_config(rows, inferencer=dict(max_out_len=8, **column), method=METHODS[1])
    if kind != "ours":
        config.datasets[0][0].infer_cfg.inferencer = {
            "type": "opencompass.openicl.icl_inferencer.GenInferencer", "max_out_len": 8,
        }  # fmt: skip
    predictions = Path(config.work_dir) / "predictions" / "tiny" / "rows.json"
    path = records_path(predictions.parent, predictions.name)
    LongContextInferTask(config).run()
    whole, text = figures(read_records(path)), predictions.read_bytes()
    predictions.unlink()
    path.unlink()
    dumped = tmp_path / "task.py"
    config.dump(dumped)
    rng = random.Random(0)
    search = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    kills = 0
    while not predictions.exists():
        process = subprocess.Popen(
            [sys.executable, infer_task.__file__, str(dumped)],
            env={**os.environ, "PYTHONPATH": search},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        before = len(read_records(path))
        until = time.monotonic() + 120
        wanted = before + rng.randrange(1, 6)
        while process.poll() is None and len(read_records(path)) < wanted < len(rows):
            assert time.monotonic() < until
            time.sleep(0.005)
        if wanted < len(rows) and process.poll() is None:
            time.sleep(rng.random() * 0.05)
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 5
    assert figures(read_records(path)) == whole
    assert predictions.read_bytes() == text
    lines = [line for line in path.read_bytes().split(b"\n") if line]
    assert len(lines) == len(rows)  # nothing ran twice
