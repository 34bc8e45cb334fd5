"""A hundred kills of every kind of task: each sample once, the same table, nothing left behind.

The kills are at random moments, by SIGKILL, SIGTERM and by the kernel in the middle of a write, of
one process or of two in one folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kill_storm import (
    WAYS,
    Storm,
    assert_nothing_is_left,
    assert_whole_and_equal,
    from_scratch,
)
from mmengine.config import Config

from reattention_eval.harness import standalone
from reattention_eval.harness.compose import evaluation
from reattention_eval.harness.tasks import LongContextEvalTask, LongContextInferTask
from reattention_eval.report import build_report

pytestmark = pytest.mark.slow
KILLS = 100
METHOD = dict(
    type="reattention", global_size=4, local_size=32, span_size=8, top_k=2, max_spans=4,
    chunk_size=32,
)  # fmt: skip
DOCUMENT = " ".join(f"The dog {i} thinks of the fox." for i in range(8))
OPENCOMPASS = "opencompass.openicl.icl_inferencer"


def task(folder: Path) -> Config:
    config = Config.fromfile(folder / "task.py")
    config["work_dir"] = str(folder / "work")
    return config


def infer(folder: Path) -> None:
    LongContextInferTask(task(folder)).run()


def score(folder: Path) -> None:
    LongContextEvalTask(task(folder)).run()


def alone(words: list[str], folder: Path) -> None:
    assert standalone.main([*words, "--work-dir", str(folder / "work")]) == 0


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Questions behind one document, and now and then another beginning."""
    return [
        {"prompt": f"{DOCUMENT[0 if i % 4 else i :]} Question {i}?" + " why" * (i % 9),
         "answer": "fox", "A": "the dog", "B": "the fox"}
        for i in range(12)
    ]  # fmt: skip


@pytest.fixture
def tables(checkpoint: Path, haystack: Path) -> Callable[[dict[str, Any]], Config]:
    """A task over a plan of ours, as `opencompass` makes it."""

    def make(plan: dict[str, Any]) -> Config:
        model = dict(
            type="reattention_eval.harness.LongContextLM", abbr="tiny", path=str(checkpoint),
            dtype="float32",
        )  # fmt: skip
        run = evaluation([model], [METHOD], [{**plan, "haystack": str(haystack)}])
        return Config({"models": run["models"], "datasets": [run["datasets"]]})

    return make


def hold(folder: Path, go: Any, begin: Callable[[Path], Any]) -> None:
    """The storm itself: rounds of one run each, until there were so many kills."""
    reference = folder / "reference"
    begin(reference)
    from_scratch(go, reference)  # the first one imports
    shutil.rmtree(reference)
    begin(reference)
    seconds = from_scratch(go, reference)
    finish(reference)
    written = [p for p in (reference / "work").rglob("*") if p.suffix in (".json", ".jsonl")]
    storm = Storm(go, seconds, max(path.stat().st_size for path in written))
    rounds = 0
    while storm.kills.total() < KILLS:
        run = folder / f"round-{rounds}"
        begin(run)
        storm.until_whole(run, most=20)
        finish(run)
        assert_nothing_is_left(run / "work")
        assert_whole_and_equal(run / "work", reference / "work")
        shutil.rmtree(run)
        rounds += 1
    print(f"{dict(storm.kills)} in {rounds} runs of {seconds:.1f} s")
    assert all(storm.kills[way] >= 10 for way in WAYS)


def finish(folder: Path) -> None:
    """Score what was predicted, and make the table, where the run has not done so itself."""
    work = folder / "work"
    if (folder / "task.py").is_file():
        LongContextEvalTask(task(folder)).run()
    report = build_report(work)
    assert report.problems == []


def dumped(config: Config, folder: Path) -> None:
    folder.mkdir()
    config.dump(folder / "task.py")


@pytest.mark.parametrize("batch_size", [1, 3])
def test_generation(
    task_config: Callable[..., Any], rows: list[dict[str, Any]], tmp_path: Path, batch_size: int
) -> None:
    column = {"answer_column": "answer"} if batch_size == 1 else {}
    config = task_config(
        rows, inferencer=dict(max_out_len=4, **column), method=METHOD, batch_size=batch_size
    )
    hold(tmp_path, infer, partial(dumped, config))


@pytest.mark.parametrize("kind", ["GenInferencer", "PPLInferencer"])
def test_inferencers_of_opencompass(
    task_config: Callable[..., Any], rows: list[dict[str, Any]], tmp_path: Path, kind: str
) -> None:
    config = task_config(rows, method=METHOD)
    about = config.datasets[0][0].infer_cfg
    about.inferencer = {"type": f"{OPENCOMPASS}.{kind}", "batch_size": 2}
    if kind == "PPLInferencer":
        for row in config.datasets[0][0].rows:
            row["answer"] = "A"
        about.prompt_template.template = {
            option: f"{{prompt}} Answer: {{{option}}}" for option in "AB"
        }
    else:
        about.inferencer["max_out_len"] = 4
    hold(tmp_path, infer, partial(dumped, config))


def test_perplexity(tables: Callable[[dict[str, Any]], Config], tmp_path: Path) -> None:
    config = tables(dict(benchmark="perplexity", lengths=[1400, 1300], points=12, tokens=4))
    hold(tmp_path, infer, partial(dumped, config))


def test_needles_at_many_depths(tables: Callable[[dict[str, Any]], Config], tmp_path: Path) -> None:
    plan = dict(
        benchmark="needle", style="many_depths", lengths=[300, 400], repeats=2,
        depths=[0, 50, 100], max_out_len=3,
    )  # fmt: skip
    config = tables(plan)
    hold(tmp_path, infer, partial(dumped, config))


def test_without_opencompass(checkpoint: Path, haystack: Path, tmp_path: Path) -> None:
    (tmp_path / "methods.py").write_text(f"methods = {[dict(type='full'), METHOD]!r}\n")
    words = [
        "--model", str(checkpoint), "--methods", str(tmp_path / "methods.py"), "--haystack",
        str(haystack), "--lengths", "300", "400", "--depths", "0", "100", "--repeats", "2",
    ]  # fmt: skip
    hold(tmp_path, partial(alone, words), Path.mkdir)


def test_the_evaluation_step(tables: Callable[[dict[str, Any]], Config], tmp_path: Path) -> None:
    """Over predictions that are there: a result is whole or absent."""
    lengths = list(range(300, 325))
    config = tables(
        dict(benchmark="needle", lengths=lengths, repeats=1, depths=[0, 100], max_out_len=4)
    )
    made = tmp_path / "made"
    dumped(config, made)
    from_scratch(infer, made)

    def begin(folder: Path) -> None:
        shutil.copytree(made, folder)

    hold(tmp_path, score, begin)
