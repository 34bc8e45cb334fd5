"""Sections for LocalRunner and SlurmRunner, tasks, and what `--slurm` makes of them."""

from __future__ import annotations

import logging
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from mmengine.config import Config
from opencompass.registry import PARTITIONERS, RUNNERS, TASKS
from opencompass.runners import LocalRunner, SlurmRunner
from opencompass.tasks import OpenICLEvalTask, OpenICLInferTask
from opencompass.utils.run import fill_eval_cfg, fill_infer_cfg

from reattention_eval.cli.configs import config_path
from reattention_eval.errors import ConfigError
from reattention_eval.harness import LongContextLM
from reattention_eval.harness.only_writer import only_writer
from reattention_eval.harness.partition import (
    ScorePartitioner,
    WorkerPartitioner,
    cost_of,
    split_by_cost,
)
from reattention_eval.harness.placement import placement
from reattention_eval.harness.tasks import LongContextEvalTask, LongContextInferTask, infer_task

VARIABLES = ("RUNNER", "WORKERS_PER_GPU", "SLURM_JOBS", "SLURM_RETRY", "SLURM_OPTIONS")


@pytest.fixture
def read(
    checkpoint: Path, haystack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """Reads the demo configuration as OpenCompass's main process does."""
    monkeypatch.setenv("REATTENTION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REATTENTION_RUN_MODEL", str(checkpoint))
    monkeypatch.setenv("REATTENTION_HAYSTACK", str(haystack))
    for name in VARIABLES:
        monkeypatch.delenv(f"REATTENTION_{name}", raising=False)
    modules = [dict(registry._module_dict) for registry in (PARTITIONERS, TASKS)]

    def dumped_and_read() -> Config:
        config = Config.fromfile(config_path("eval_demo.py"), format_python_code=False)
        config["work_dir"] = str(tmp_path / "work")
        config.dump(tmp_path / "dump.py")
        return Config.fromfile(tmp_path / "dump.py", format_python_code=False)

    yield dumped_and_read
    for registry, before in zip((PARTITIONERS, TASKS), modules, strict=True):
        registry._module_dict.clear()
        registry._module_dict.update(before)


def built(config: Config) -> tuple[Any, Any, list[Any]]:
    """Runner classes of both stages, and the inference tasks, as main.py gets them."""
    config.infer.partitioner["out_dir"] = str(Path(config.work_dir) / "predictions")
    config.eval.partitioner["out_dir"] = str(Path(config.work_dir) / "results")
    infer, score = RUNNERS.build(config.infer.runner), RUNNERS.build(config.eval.runner)
    PARTITIONERS.build(config.eval.partitioner)
    return infer, score, PARTITIONERS.build(config.infer.partitioner)(config)


def task_of(config: Config, stage: str, task: Config) -> Any:
    return TASKS.build({"cfg": task, "type": config[stage].runner.task.type})


def test_local_sections_fill_the_gpus(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    infer, _, tasks = built(read())
    assert isinstance(infer, LocalRunner) and infer.max_num_workers == 1
    assert [len(task.models) * len(task.datasets[0]) for task in tasks] == [2, 2, 2]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setenv("REATTENTION_WORKERS_PER_GPU", "2")
    config = read()
    infer, _, tasks = built(config)
    assert (infer.max_num_workers, infer.max_workers_per_gpu) == (6, 2)
    # six slots for three methods: the two lengths of each apart
    assert [len(task.datasets[0]) for task in tasks] == [1] * 6
    assert isinstance(task_of(config, "infer", tasks[0]), LongContextInferTask)
    assert isinstance(task_of(config, "eval", tasks[0]), LongContextEvalTask)


def test_slurm_sections_carry_what_the_variables_say(
    read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REATTENTION_RUNNER", "slurm")
    monkeypatch.setenv("REATTENTION_SLURM_JOBS", "5")
    monkeypatch.setenv("REATTENTION_SLURM_RETRY", "0")
    monkeypatch.setenv("REATTENTION_SLURM_OPTIONS", "--mem=4G --comment='a $b'")
    monkeypatch.setenv("REATTENTION_SLURM_PARTITION", "gpu")
    for runner in built(read())[:2]:
        assert type(runner) is SlurmRunner
        assert (runner.max_num_workers, runner.retry, runner.partition) == (5, 0, "gpu")
        assert runner.extra_command == ["--mem=4G", "'--comment=a $b'"]


@pytest.mark.parametrize("kind", ["", "local", "slurm"])
def test_the_slurm_flag_is_merged_over_every_section(
    kind: str, read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As opencompass/cli/main.py does it, up to the tasks that it would start."""
    monkeypatch.setenv("REATTENTION_RUNNER", kind)
    monkeypatch.setenv("REATTENTION_WORKERS_PER_GPU", "2")
    monkeypatch.setenv("REATTENTION_SLURM_OPTIONS", "-c 4")
    monkeypatch.setattr(sys, "argv", ["opencompass", "eval.py", "--slurm", "-p", "gpu"])
    config = read()
    config["lark_bot_url"] = None
    flags = Namespace(
        slurm=True, dlc=False, partition="gpu", quotatype=None, qos=None, retry=1, debug=False,
        max_num_workers=6, max_workers_per_gpu=1,
    )  # fmt: skip
    fill_infer_cfg(config, flags)
    fill_eval_cfg(config, flags)
    infer, score, tasks = built(config)
    for runner in (infer, score):
        assert type(runner) is SlurmRunner
        assert (runner.max_num_workers, runner.retry, runner.partition) == (6, 1, "gpu")
        assert runner.extra_command == ["-c", "4"]
    assert [len(task.datasets[0]) for task in tasks] == [1] * 6
    assert isinstance(task_of(config, "infer", tasks[0]), LongContextInferTask)
    assert isinstance(task_of(config, "eval", tasks[0]), LongContextEvalTask)
    assert isinstance(PARTITIONERS.build(config.eval.partitioner), ScorePartitioner)


def test_without_the_flag_the_classes_of_opencompass_are_its_own(read: Any) -> None:
    read()
    for stock in (OpenICLInferTask, OpenICLEvalTask):
        assert TASKS.get(f"{stock.__module__}.{stock.__name__}") is stock


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RUNNER", "pbs"),
        ("WORKERS_PER_GPU", "0"),
        ("SLURM_JOBS", "many"),
        ("SLURM_OPTIONS", "--comment='open"),
    ],
)
def test_a_variable_that_cannot_be_read_is_named(
    name: str, value: str, read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.startswith("SLURM"):
        monkeypatch.setenv("REATTENTION_RUNNER", "slurm")
    monkeypatch.setenv(f"REATTENTION_{name}", value)
    with pytest.raises(ConfigError, match=f"REATTENTION_{name} is "):
        read()


def test_datasets_are_dealt_out_evenly_and_finished_ones_left_out(tmp_path: Path) -> None:
    plain = [{"abbr": name} for name in "abcde"]  # nothing says what they take: like cards
    assert split_by_cost(plain, 2) == [plain[0::2], plain[1::2]]
    assert split_by_cost(plain[:2], 5) == [plain[:1], plain[1:2]]
    models = [{"abbr": "m"}, {"abbr": "n"}]
    datasets = [{"abbr": name} for name in "abcd"]
    (tmp_path / "m").mkdir()
    for name in "abcd":
        (tmp_path / "m" / f"{name}.json").write_text("{}")
    partitioner = WorkerPartitioner(str(tmp_path), num_worker=3)
    tasks = partitioner.partition(
        [{"models": models, "datasets": datasets}], str(tmp_path), str(tmp_path)
    )
    assert [[d.abbr for d in task.datasets[0]] for task in tasks] == [["a", "d"], ["b"], ["c"]]
    assert [[d.abbr for d in t.others] for t in tasks] == [["b", "c"], ["c", "d", "a"], list("dba")]
    assert {task.models[0].abbr for task in tasks} == {"n"}


def test_datasets_are_dealt_out_by_what_they_take() -> None:
    def facts(new: int, **facts: Any) -> dict[str, Any]:
        return {"infer_cfg": {"inferencer": {"max_out_len": new, "dataset_facts": facts}}}

    assert cost_of(facts(30, length=4000, samples=5)) == 5 * (4000 + 3000)
    assert cost_of(facts(10, length=9000, depths=[0, 50], repeats=3)) == 6 * (9000 + 1000)
    assert cost_of(facts(0, length=31_500)) == 31_500  # LongBench: its files know how many
    assert cost_of(facts(50, length=None)) == 1  # read whole, whatever it is
    ruler = [
        facts(new, length=2**power, samples=100)
        for power in range(12, 18)
        for new in (128,) * 8 + (30, 120, 50, 32, 32)
    ]
    shares = split_by_cost(ruler, 8)
    loads = [sum(map(cost_of, share)) for share in shares]
    assert max(loads) < 1.02 * sum(loads) / 8
    assert sorted(map(ruler.index, shares[0])) == list(map(ruler.index, shares[0]))
    assert sum(map(len, shares)) == len(ruler)


def test_models_that_cannot_be_had_are_all_named_before_anything_runs(
    tmp_path: Path, checkpoint: Path
) -> None:
    cut = shutil.copytree(checkpoint, tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:-9])
    paths = (str(checkpoint), str(cut), str(tmp_path / "none"))
    models = [
        {"abbr": f"m{i}", "path": path, "type": kind}
        for i, path in enumerate(paths)
        for kind in (LongContextLM, "reattention_eval.harness.LongContextLM")
    ]
    models.append({**models[0], "abbr": "three", "tensor_parallel": 3})
    partitioner = WorkerPartitioner(str(tmp_path))
    groups = [{"models": models, "datasets": [{"abbr": "a"}]}]
    with pytest.raises(SystemExit) as ended:
        partitioner.partition(groups, str(tmp_path), str(tmp_path))
    first, second, third = str(ended.value).splitlines()
    assert first.startswith("error: ") and "cut off; fetch the model again" in first
    assert second.startswith(f"error: the model folder {tmp_path / 'none'} does not exist")
    assert third.startswith("error: tensor_parallel=3 does not divide the model's 2 KV heads")
    groups[0]["models"] = [*models[:2], {"abbr": "other", "path": "x y", "type": "OpenAI"}]
    assert len(partitioner.partition(groups, str(tmp_path), str(tmp_path))) == 3


def test_two_processes_never_write_the_same_predictions(
    task_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infer_task, "LOCK_SECONDS", 0.2)
    log = logging.getLogger()
    config = task_config([{"prompt": "the dog", "answer": "fox"}])
    folder = Path(config.work_dir) / "records" / "tiny"
    folder.mkdir(parents=True)
    task = LongContextInferTask(config)
    with FileLock(folder / "rows.lock"):
        with (
            pytest.raises(ConfigError, match=r"another process is writing .*/tiny/rows\.jsonl"),
            only_writer(folder / "rows.jsonl", 0.2, log),
        ):
            pass
        with pytest.raises(SystemExit, match="no predictions written"):
            task.run()
    assert not (folder / "rows.jsonl").exists()
    LongContextInferTask(config).run()
    assert len((folder / "rows.jsonl").read_text().splitlines()) == 1


def test_a_login_node_without_gpus_asks_for_those_of_the_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("REATTENTION_GPUS", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert placement(8.0) == {"run_cfg": {"num_gpus": 0}}
    monkeypatch.setenv("REATTENTION_GPU_MEMORY", "80")
    assert placement(8.0) == {"run_cfg": {"num_gpus": 1}}
    assert placement(70.6) == {"run_cfg": {"num_gpus": 4}, "device_map": "auto"}
    monkeypatch.setenv("REATTENTION_GPU_MEMORY", "139")
    assert placement(70.6)["run_cfg"] == {"num_gpus": 2}
    monkeypatch.setenv("REATTENTION_GPUS", "8")
    assert placement(70.6)["run_cfg"] == {"num_gpus": 8}
    monkeypatch.delenv("REATTENTION_GPUS")
    monkeypatch.setenv("REATTENTION_GPU_MEMORY", "much")
    with pytest.raises(ConfigError, match="REATTENTION_GPU_MEMORY is 'much'"):
        placement(8.0)
