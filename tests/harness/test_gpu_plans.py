"""scripts/gpu_methods: its cells are those of the configurations, its tables those of a run."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from reattention_eval.harness.compose.run_variables import DRY_RUN
from reattention_eval.harness.standalone import model_entry, read_plans

SCRIPTS = Path(__file__).parents[2] / "scripts" / "gpu_methods"
# what a run of a few seconds asks, in the place of a lane's plans
SHORT = """
plans = [
    dict(benchmark="needle", style="many_depths", depths=[10, 90], lengths=[700], repeats=1,
         haystack={text!r}, max_out_len=4,
         methods=[dict(type="full"), dict(type="streaming_llm", budget_tokens=560)]),
]
"""


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_methods_tables", SCRIPTS / "tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def model(checkpoint: Path, tmp_path: Path) -> dict[str, Any]:
    """A checkpoint trained to 32,768 tokens, by what its configuration says."""
    folder = tmp_path / "window-32768"
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2**15}))
    return model_entry(str(folder))


def test_every_cell_is_one_of_the_configurations(
    tables: ModuleType, model: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DRY_RUN, "1")
    monkeypatch.chdir(SCRIPTS.parents[1])
    known = set(tables.jobs(model, tables.methods, tables.every_plan()))
    for members in tables.ablations.values():
        known |= set(tables.jobs(model, members, tables.varied.plans))
    for lane in tables.LANES:
        plans = read_plans(SCRIPTS / f"{lane}.py")
        assert set(tables.jobs(model, tables.methods, plans)) <= known, lane


def test_the_real_tables_cells_are_asked_of_reattention_plus(
    tables: ModuleType, model: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from configs.datasets import needle_many_depths, real_tables
    from configs.methods.paper import methods

    monkeypatch.setenv(DRY_RUN, "1")
    monkeypatch.chdir(SCRIPTS.parents[1])
    asked = tables.jobs(model, methods, [*real_tables.ruler, *needle_many_depths.many_depths])
    datasets = {dataset for _, dataset in asked}
    real = tables.jobs(model, tables.methods, tables.plans_of(["real"]))
    assert len(real) == 39
    assert {dataset for _, dataset in real} <= datasets
    assert {name.split("-")[2] for name, _ in real} == {"reattention_plus"}


def test_times_are_of_the_table_s_methods_and_eviction_stands_apart(
    tables: ModuleType, model: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DRY_RUN, "1")
    monkeypatch.chdir(SCRIPTS.parents[1])
    of_table = {name for name, _ in tables.jobs(model, tables.methods, tables.every_plan())}
    alone, pressed = (
        tables.jobs(model, tables.methods, tables.plans_of([n])) for n in tables.TIMES
    )
    assert {name for name, _ in [*alone, *pressed]} <= of_table
    assert len({dataset for _, dataset in [*alone, *pressed]}) == 2
    assert {job.model["method"]["type"] for job in pressed.values()} == {
        "snapkv", "keydiff", "pyramidkv", "tova", "expected_attention"
    }  # fmt: skip
    assert not {job.model["method"]["type"] for job in alone.values()} & {"snapkv", "h2o"}


def test_processes_of_lanes_share_a_run_and_tables_are_of_a_part_of_it(
    tables: ModuleType, model: dict[str, Any], haystack: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    shutil.copytree(SCRIPTS, root / "scripts" / "gpu_methods")
    for name in ("configs", "kernels", "reattention_eval"):
        (root / name).symlink_to(SCRIPTS.parents[1] / name)
    for lane in ("main", "eviction"):
        lane_file = root / "scripts" / "gpu_methods" / f"{lane}.py"
        lane_file.write_text(SHORT.format(text=str(haystack)))
    work = tmp_path / "work"
    run = root / "scripts" / "gpu_methods" / "run.sh"
    wishes = {"PYTHON": sys.executable, "GPUS": "0", "LANES": "main:2 eviction:1", "MINUTES": "5"}
    done = subprocess.run(
        [str(run), str(model["path"]), str(work)], env={**os.environ, **wishes}, check=False
    )
    logs = "".join(path.read_text() for path in (work / "logs").iterdir())
    assert done.returncode == 0, logs
    cells = tables.jobs(model, [], read_plans(root / "scripts" / "gpu_methods" / "main.py"))
    assert all((work / "results" / m / f"{d}.json").is_file() for m, d in cells)
    full = {names: job for names, job in cells.items() if "-full-" in names[0]}
    tables.made(work, full, tmp_path / "table")
    assert "streaming_llm" not in (tmp_path / "table" / "table.csv").read_text()
    with tarfile.open(tmp_path / "table" / "records.tar.xz") as archive:
        files = [member.name for member in archive if member.isfile()]
    (model_name, dataset), *_ = full
    assert sorted(files) == [
        f"predictions/{model_name}/{dataset}.json",
        f"records/{model_name}/{dataset}.jsonl",
        f"records/{model_name}/{dataset}.manifest.json",
        f"results/{model_name}/{dataset}.json",
    ]
