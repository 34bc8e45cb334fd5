"""Needles at many depths of one haystack through a model: one prefill, and runs in pieces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from reattention_eval.benchmarks import find_benchmark
from reattention_eval.errors import ConfigError
from reattention_eval.harness import (
    LongContextLM,
    Sample,
    job_runs,
    sample_run,
    standalone,
    time_limit,
)
from reattention_eval.harness.compose import evaluation
from reattention_eval.harness.partition import WorkerPartitioner, cost_of
from reattention_eval.harness.tasks import LongContextInferTask
from reattention_eval.harness.time_limit import run_ends
from reattention_eval.report import build_report
from reattention_eval.report.records import read_records

METHODS = [
    dict(type="full", chunk_size=32),
    dict(type="streaming_llm", sink_size=16, window_size=240, chunk_size=32),
    dict(type="reattention", global_size=16, local_size=128, span_size=16, top_k=2, max_spans=6,
         chunk_size=32),
]  # fmt: skip
DEPTHS = [0, 25, 50, 75, 100]
FIGURES = (
    "answer_nll",
    "layer_steps",
    "layer_steps_selected",
    "mean_view",
    "n_tokens",
    "new_tokens",
)


@pytest.fixture
def plan(haystack: Path) -> dict[str, Any]:
    return dict(
        benchmark="needle", style="many_depths", lengths=[800], depths=DEPTHS, repeats=2,
        haystack=str(haystack),
    )  # fmt: skip


@pytest.fixture
def model(checkpoint: Path) -> dict[str, Any]:
    return dict(
        type="reattention_eval.harness.LongContextLM", abbr="tiny", path=str(checkpoint),
        dtype="float32", chat_template=True,
    )  # fmt: skip


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["type"])
def test_behind_a_shared_prefill_everything_is_as_alone(
    checkpoint: Path, haystack: Path, method: dict[str, Any]
) -> None:
    rows = find_benchmark("needle").rows(
        "many_depths", str(checkpoint), length=800, depths=DEPTHS, repeats=2, chat_template=True,
        haystack=str(haystack),
    )  # fmt: skip
    samples = [Sample(r["prompt"], r["answer_prefix"], r["continuation"], True) for r in rows]
    lm = LongContextLM(path=str(checkpoint), dtype="float32", method=method)
    shared = [lm.run([sample], 6)[0] for sample in samples]
    reused = [output.record["reused_tokens"] for output in shared]
    assert [n < 100 for n in reused] == [True, *[False] * 4] * 2  # one prefill a haystack
    assert min(n for n in reused if n >= 100) > 650
    lm.close()
    for sample, output in zip(samples, shared, strict=True):
        alone = LongContextLM(path=str(checkpoint), dtype="float32", method=method)
        again = alone.run([sample], 6)[0]
        alone.close()
        assert again.text == output.text
        assert [again.record[key] for key in FIGURES] == [output.record[key] for key in FIGURES]


def tasks(model: dict[str, Any], plan: dict[str, Any], folder: Path) -> list[Config]:
    """As `opencompass` makes them for one worker."""
    config = evaluation([model], METHODS[:1], [plan])
    partitioner = WorkerPartitioner(str(folder / "predictions"))
    return partitioner.partition(
        Config(config).model_dataset_combinations, str(folder), str(folder / "predictions")
    )


class Clock:
    """Time that passes when a sample is run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1e6
        self.asked = 0
        monkeypatch.setattr(time_limit.time, "time", lambda: self.now)
        run = LongContextLM.run

        def counted(lm: Any, *args: Any, **kwargs: Any) -> Any:
            self.now += 60
            self.asked += 1
            return run(lm, *args, **kwargs)

        monkeypatch.setattr(LongContextLM, "run", counted)


def test_pieces_make_the_run_that_one_piece_makes(
    model: dict[str, Any], plan: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clock = Clock(monkeypatch)
    (task,) = tasks(model, plan, tmp_path / "whole")
    LongContextInferTask(task).run()
    (whole,) = (tmp_path / "whole").glob("records/*/*.jsonl")
    monkeypatch.setenv("REATTENTION_MINUTES", "3.5")
    done = []
    for _ in range(3):
        (task,) = tasks(model, plan, tmp_path / "pieces")
        LongContextInferTask(task).run()  # no SystemExit: it ends cleanly
        (path,) = (tmp_path / "pieces").glob("records/*/*.jsonl")
        done.append(len(read_records(path)))
        predictions = list((tmp_path / "pieces").glob("predictions/*/*.json"))
        assert bool(predictions) == (done[-1] == 10)
        if done == [4]:
            report = build_report(tmp_path / "pieces")
            assert "unfinished, 4 of 10 samples are done; run the same" in report.problems[0]
            assert "unfinished (4 of 10 samples)" in str(report.grids)
    assert done == [4, 8, 10]
    assert clock.asked == 20  # none twice
    records = [read_records(file) for file in (whole, path)]
    kept = [
        {i: [r["prediction"], *(r[key] for key in FIGURES)] for i, r in own.items()}
        for own in records
    ]
    assert kept[0] == kept[1]
    assert not tasks(model, plan, tmp_path / "pieces")


def test_when_the_time_is_over_no_model_is_loaded(
    model: dict[str, Any], plan: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clock = Clock(monkeypatch)
    monkeypatch.setenv("REATTENTION_MINUTES", "1")
    (task,) = tasks(model, plan, tmp_path)
    clock.now += 61
    monkeypatch.setattr(LongContextLM, "__init__", lambda *_, **__: pytest.fail("loaded"))
    LongContextInferTask(task).run()


def test_a_sample_that_failed_is_an_error_whatever_the_time(
    model: dict[str, Any], plan: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clock = Clock(monkeypatch)

    def broken(*_: Any, **__: Any) -> Any:
        clock.now += 60
        raise ConfigError("no room")

    monkeypatch.setattr(LongContextLM, "run", broken)
    monkeypatch.setenv("REATTENTION_MINUTES", "1")
    (task,) = tasks(model, plan, tmp_path)
    with pytest.raises(SystemExit, match="no predictions written"):
        LongContextInferTask(task).run()


@pytest.mark.parametrize("words", ["soon", "0", "-1", "nan", "inf"])
def test_minutes_are_a_positive_number(
    words: str, model: dict[str, Any], plan: dict[str, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("REATTENTION_MINUTES", words)
    with pytest.raises(ConfigError, match="positive number of minutes"):
        run_ends()
    with pytest.raises(SystemExit, match="error: REATTENTION_MINUTES"):
        tasks(model, plan, tmp_path)
    monkeypatch.setenv("REATTENTION_MINUTES", "")
    assert run_ends() is None


def test_standalone_names_the_form_and_goes_on_in_pieces(
    checkpoint: Path, haystack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "methods.py").write_text(f"methods = {METHODS[1:2]!r}\n")
    words = [
        "--model", str(checkpoint), "--methods", str(tmp_path / "methods.py"), "--haystack",
        str(haystack), "--lengths", "500", "700", "--depths", "0", "50", "--repeats", "2",
        "--style", "many_depths", "--work-dir", str(tmp_path / "work"),
    ]  # fmt: skip
    asked = iter([False] * 4 + [True] * 100)
    monkeypatch.setattr(job_runs, "is_over", lambda _: False)
    monkeypatch.setattr(sample_run, "is_over", lambda _: next(asked))
    assert standalone.main(words) == 1
    monkeypatch.setattr(sample_run, "is_over", lambda _: False)
    assert standalone.main(words) == 0
    names = {path.stem[: -len("-12345678")] for path in tmp_path.glob("work/results/*/*.json")}
    assert names == {"needle-many_depths-500", "needle-many_depths-700"}
    details = json.loads(next(tmp_path.glob("work/results/*/*-500-*.json")).read_text())["details"]
    assert [(d["repeat"], d["depth"]) for d in details] == [(0, 0), (0, 50), (1, 0), (1, 50)]
    page = (tmp_path / "work" / "report" / "table.md").read_text()
    assert "**needles at many depths of one haystack: accuracy, %**" in page
    assert "(n = 4 questions a cell, depths x texts)" in page
    assert "peak memory, GiB" in page
    # the second haystack begins with the first one's 64 tokens: not read whole
    assert "(n=1) |" in page.partition("time to the first token")[2].splitlines()[4]


def test_a_shared_prefill_costs_one(haystack: Path, model: dict[str, Any]) -> None:
    def cost(style: str) -> float:
        plan = dict(
            benchmark="needle", style=style, lengths=[100_000], depths=DEPTHS, repeats=2,
            haystack=str(haystack),
        )  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("REATTENTION_DRY_RUN", "1")
            return cost_of(evaluation([model], METHODS[:1], [plan])["datasets"][0])

    assert cost("magic_number") == 10 * (100_000 + 1600)
    assert cost("many_depths") == 2 * 100_000 + 10 * 1600
