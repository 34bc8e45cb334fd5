"""A task whose model lies in two processes: one set of files, the answers of one process."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reattention_eval.errors import ConfigError
from reattention_eval.harness.placement import placement
from reattention_eval.harness.tasks import LongContextInferTask

TESTS = Path(__file__).parents[1]
METHOD = {
    "type": "reattention", "global_size": 4, "local_size": 64, "span_size": 4, "max_spans": 8,
    "chunk_size": 32,
}  # fmt: skip
WORDS = "the dog and a fox think of text to the reader of an essay "
ROWS = [
    {"prompt": WORDS * 20, "answer": "x"},
    {"prompt": "", "answer": "x"},  # fails in every process, and the next one is taken
    {"prompt": WORDS * 25 + "result", "answer": "x"},
]


def run(config: Any, folder: Path) -> tuple[subprocess.CompletedProcess[str], list[Any]]:
    path = folder / "task.py"
    config.dump(str(path))
    command = LongContextInferTask(config).get_command(str(path), "{task_cmd}")
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, shell=True, env=environment, capture_output=True, text=True, timeout=300
    )
    records = folder / "work" / "records" / "tiny" / "rows.jsonl"
    lines = records.read_text().splitlines() if records.is_file() else []
    return done, [json.loads(line) for line in lines]


@pytest.mark.slow
def test_two_processes_write_what_one_writes(
    task_config: Callable[..., Any], tmp_path: Path
) -> None:
    both = []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        config = task_config(ROWS, method=METHOD, tensor_parallel=ranks)
        config.work_dir = str(folder / "work")
        done, records = run(config, folder)
        assert done.returncode == 1, done.stderr  # of the empty prompt
        assert "no predictions written" in done.stderr
        assert [sorted(r["index"] for r in records)] == [[0, 1, 2]], done.stderr
        both.append({r["index"]: r for r in records})
    one, two = both
    for index in (0, 2):
        assert two[index]["prediction"] == one[index]["prediction"]
        assert two[index]["layer_steps_selected"] == one[index]["layer_steps_selected"] > 0
        assert two[index]["cache_bytes"] * 2 == one[index]["cache_bytes"]
    assert "ConfigError" in two[1]["error"]


def test_the_command_starts_a_process_a_rank(task_config: Callable[..., Any]) -> None:
    command = LongContextInferTask(task_config(ROWS, tensor_parallel=4)).get_command(
        "a.py", "{task_cmd}"
    )
    assert "torch.distributed.run --standalone --nproc-per-node 4" in command
    assert "infer_task.py a.py " in command  # and who starts it, with whom it ends


@pytest.mark.slow
def test_a_size_that_does_not_divide_is_said_at_once(
    task_config: Callable[..., Any], tmp_path: Path
) -> None:
    done, records = run(task_config(ROWS, tensor_parallel=3), tmp_path)
    assert done.returncode != 0 and not records
    assert "tensor_parallel=3 does not divide the model's 2 KV heads" in done.stderr


def test_one_variable_spreads_heads_instead_of_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REATTENTION_GPUS", "4")
    assert placement(70.6) == {"run_cfg": {"num_gpus": 4}, "device_map": "auto"}
    monkeypatch.setenv("REATTENTION_SPREAD", "heads")
    assert placement(70.6) == {"run_cfg": {"num_gpus": 4}, "tensor_parallel": 4}
    monkeypatch.setenv("REATTENTION_GPUS", "1")
    assert placement(8.0) == {"run_cfg": {"num_gpus": 1}}
    monkeypatch.setenv("REATTENTION_SPREAD", "rows")
    with pytest.raises(ConfigError, match="REATTENTION_SPREAD is 'rows'; there are: layers, heads"):
        placement(8.0)
