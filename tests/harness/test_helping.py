"""Tasks that are done take over what the others of their model have not begun."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from reattention_eval.harness.tasks import LongContextInferTask

Rows = Callable[..., Any]


@pytest.fixture
def task_of(task_config: Rows) -> Callable[[str, str], Any]:
    """A task with datasets of its own and those of others, by their names, a letter each."""

    def make(own: str, others: str, **rows: list[dict[str, Any]]) -> Any:
        def dataset(name: str) -> Any:
            found = rows.get(name, [{"prompt": f"the {name} dog", "answer": "fox"}] * 2)
            return task_config(found, abbr=name).datasets[0][0]

        config = task_config([])
        config.datasets = [[dataset(name) for name in own]]
        config.others = [dataset(name) for name in others]
        return config

    return make


def predicted(config: Any) -> str:
    return "".join(sorted(p.stem for p in (Path(config.work_dir) / "predictions/tiny").iterdir()))


def records(config: Any, name: str) -> Path:
    return Path(config.work_dir) / f"records/tiny/{name}.jsonl"


def test_what_nobody_began_is_taken_over_and_what_somebody_does_is_left(task_of: Any) -> None:
    early, late = task_of("a", "dcb"), task_of("bcd", "a")
    lock = records(early, "b").with_suffix(".lock")
    lock.parent.mkdir(parents=True)
    with FileLock(lock):  # the other task is at its first dataset
        LongContextInferTask(early).run()
    assert predicted(early) == "acd"
    lines = {name: records(early, name).read_text() for name in "cd"}
    LongContextInferTask(late).run()
    assert predicted(early) == "abcd"
    assert lines == {name: records(early, name).read_text() for name in "cd"}
    assert all(len(records(early, name).read_text().splitlines()) == 2 for name in "abcd")


def test_a_task_whose_datasets_were_all_taken_loads_no_model(
    task_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    LongContextInferTask(task_of("a", "b")).run()
    monkeypatch.setattr("opencompass.tasks.openicl_infer.build_model_from_cfg", None)
    LongContextInferTask(task_of("b", "a")).run()


def test_a_task_waits_for_those_who_took_its_datasets(task_of: Any) -> None:
    config = task_of("ab", "c")
    lock = FileLock(records(config, "a").with_suffix(".lock"), thread_local=False)
    records(config, "a").parent.mkdir(parents=True)
    lock.acquire()

    def helper() -> None:
        while not records(config, "c").exists():  # the task has gone on meanwhile
            time.sleep(0.05)
        time.sleep(0.3)
        out = Path(config.work_dir) / "predictions/tiny/a.json"
        out.write_text("{}")
        lock.release()

    thread = threading.Thread(target=helper)
    thread.start()
    LongContextInferTask(config).run()
    thread.join()
    assert predicted(config) == "abc"
    assert not records(config, "a").exists()  # nothing of it ran here


def test_a_helper_that_dies_leaves_the_rest_to_the_owner(task_of: Any) -> None:
    config = task_of("ab", "c")
    LongContextInferTask(task_of("a", "c")).run()
    kept = records(config, "a").read_text().splitlines()[:1]
    records(config, "a").write_text(kept[0] + "\n")  # ended in the middle
    (Path(config.work_dir) / "predictions/tiny/a.json").unlink()
    LongContextInferTask(config).run()
    lines = records(config, "a").read_text().splitlines()
    assert lines[0] == kept[0] and [json.loads(line)["index"] for line in lines] == [0, 1]


def test_what_failed_elsewhere_is_not_tried_by_everybody(task_of: Any) -> None:
    broken = {"b": [{"prompt": "", "answer": "fox"}]}  # an empty prompt is an error
    with pytest.raises(SystemExit, match="no predictions written"):
        LongContextInferTask(task_of("b", "a", **broken)).run()
    before = records(task_of("b", "a"), "b").read_text()
    LongContextInferTask(task_of("a", "b", **broken)).run()
    assert records(task_of("b", "a"), "b").read_text() == before
