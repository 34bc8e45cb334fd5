"""A GPU that other processes filled is said to be so, and the prompt is tried again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from reattention_eval.errors import ConfigError
from reattention_eval.harness import PromptRunner, attached_model, job_runs, memory_check
from reattention_eval.harness.compose import Job, plan_jobs
from reattention_eval.harness.job_runs import JobRuns
from reattention_eval.harness.samples import Sample
from reattention_eval.machine_memory import GIB, shared_gpu
from reattention_eval.report import build_report

SMALL = 600 << 20  # bytes of a GPU that a process has no room on


@pytest.fixture
def runner(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PromptRunner]:
    """Its prompts fill the GPU."""

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    made = PromptRunner(str(checkpoint), dtype="float32")
    monkeypatch.setattr(made.session, "prefill", full)
    yield made
    made.close()


def use_gpus(
    monkeypatch: pytest.MonkeyPatch, free: dict[int, float], own: dict[int, float]
) -> None:
    """GPUs of 80 GiB: what is free of each, and what this process has reserved."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda i: int(own.get(i, 0) * GIB))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: (int(free[i] * GIB), 80 * GIB))


def test_whose_a_gpus_memory_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shared_gpu() is None or torch.cuda.is_initialized()
    for free, own, others in (
        ({0: 79.0, 1: 1.0, 2: 0.0}, {0: 0.5, 1: 20.0}, 59.0),  # the fullest that it uses
        ({0: 1.0}, {0: 78.0}, None),  # its own context
        ({0: 0.0}, {}, None),  # it uses none
    ):
        use_gpus(monkeypatch, free, own)
        found = shared_gpu()
        assert (found is None) == (others is None)
        if found is not None and others is not None:
            assert found == (20 * GIB + SMALL, 59 * GIB - SMALL)


def test_what_others_held_is_in_the_sentence(
    runner: PromptRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(own: float, *gpus: tuple[int, int]) -> str:
        use_gpus(monkeypatch, {0: 1.0}, {0: own})
        monkeypatch.setattr(memory_check, "accelerator_memory", lambda: list(gpus))
        with pytest.raises(ConfigError) as caught:
            runner.run([Sample("the dog and the fox")], 4)
        return str(caught.value)

    held = "answer, while this process held 20.6 GiB of the GPU and other processes 58.4; "
    again = "start the same command again with fewer processes on the GPU"
    large, small = (GIB, 80 * GIB), (GIB, SMALL)
    for gpus in ([large], []):
        text = said(20, *gpus)
        assert held in text and again in text
    # what would not fit alone either is no matter of the others
    text = said(20, small)
    assert held in text and again not in text and "ask for less, or give more GPUs" in text
    text = said(78, large)
    assert "process" not in text and "ask for less, or give more GPUs" in text


class Crowd:
    """Others hold most of the GPU: of the samples, in the order in which they are run, those of
    `full` find no room."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, full: list[bool]) -> None:
        self.samples = 0
        run_one = PromptRunner._run_one

        def crowded(runner: PromptRunner, *args: Any) -> Any:
            self.samples += 1
            if full[self.samples - 1 : self.samples] == [True]:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return run_one(runner, *args)

        monkeypatch.setattr(PromptRunner, "_run_one", crowded)
        monkeypatch.setattr(attached_model, "shared_gpu", lambda: (20 * GIB, 58 * GIB))
        monkeypatch.setattr(job_runs, "held_by_others", lambda: 58 * GIB)
        monkeypatch.setattr(job_runs, "_PATIENCE", -1.0)


@pytest.fixture
def jobs(checkpoint: Path, haystack: Path) -> list[Job]:
    plan = dict(benchmark="needle", lengths=[450], depths=[0], repeats=3, haystack=str(haystack))
    return plan_jobs([dict(path=str(checkpoint))], [dict(type="full")], [plan])


def share(jobs: list[Job], folder: Path) -> int:
    runs = JobRuns(folder)
    runs.share_all(jobs)
    runs.close()
    return runs.failed


def test_what_others_left_no_memory_for_is_tried_once_more(
    jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Crowd(monkeypatch, [False, True])
    assert share(jobs, tmp_path) == 0
    (path,) = tmp_path.glob("records/*/*.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert ["error" in line for line in lines] == [False, True, False, False]
    assert [line["index"] for line in lines] == [0, 1, 1, 2] and not build_report(tmp_path).problems


def test_it_is_tried_as_often_as_others_hold_less(
    jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = Crowd(monkeypatch, [True] * 3)  # the first sample, three times; nor are others begun
    held = [58, 58, 55, 50, 50, 0]  # GiB, at each look; a tenth less is less
    looks = iter(held)
    monkeypatch.setattr(job_runs, "held_by_others", lambda: next(looks) * GIB)
    monkeypatch.setattr(job_runs, "_PATIENCE", 60.0)
    monkeypatch.setattr(job_runs, "_LOOK", 0.0)
    assert share(jobs, tmp_path) == 0
    assert crowd.samples == 6 and not list(looks)


def test_what_nobody_makes_room_for_stays_failed_and_the_next_run_tries_it(
    jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        crowd = Crowd(patched, [False, True, True])
        assert share(jobs, tmp_path) == 1
        assert crowd.samples == 3
    assert not list(tmp_path.glob("results/*/*"))
    (path,) = tmp_path.glob("records/*/*.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert ["error" in line for line in lines] == [False, True, True]
    failed = lines[-1]
    assert failed["error"].startswith("SharedGpuError: ")
    assert "20.0 GiB of the GPU and other processes 58.0" in failed["error"]
    (problem,) = build_report(tmp_path).problems
    assert failed["error"] in problem
    assert share(jobs, tmp_path) == 0 and len(list(tmp_path.glob("results/*/*"))) == 1
    later = map(json.loads, path.read_text().splitlines()[3:])
    assert [line["index"] for line in later] == [failed["index"], 2]


def test_what_time_leaves_untried_stays_failed(
    jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd, looks = Crowd(monkeypatch, [False, True]), []
    monkeypatch.setattr(job_runs, "held_by_others", lambda: len(looks) or looks.append(1) or 0)
    monkeypatch.setattr(job_runs, "is_over", lambda until: bool(looks))
    assert share(jobs, tmp_path) == 1
    assert crowd.samples == 2
