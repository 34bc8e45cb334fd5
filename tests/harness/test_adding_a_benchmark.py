"""docs/adding-a-benchmark.md, as it stands there: its files, its commands, and OpenCompass."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from reattention_eval.benchmarks import find_benchmark, list_benchmarks, registry
from reattention_eval.benchmarks.scored import scored
from reattention_eval.errors import ConfigError, DataError
from reattention_eval.evaluators.rules import TaskRule

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "adding-a-benchmark.md"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the page's files, importable."""
    page = PAGE.read_text(encoding="utf-8")
    for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", page, re.DOTALL):
        (tmp_path / name).write_text(code)
    (tmp_path / "methods.py").write_text('methods = [dict(type="full")]\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("REATTENTION_DATA", str(tmp_path / "data"))
    yield tmp_path
    sys.modules.pop("capitals", None)


def run_page(place: Path, checkpoint: Path) -> subprocess.CompletedProcess[str]:
    (commands,) = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    commands = commands.replace("MODEL_FOLDER", str(checkpoint)).replace("python", sys.executable)
    path = f"{place}:{ROOT}:{ROOT / 'kernels'}"
    environment = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        ["bash", "-euc", commands], cwd=place, env=environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip


def test_the_page_runs_without_and_with_opencompass(place: Path, checkpoint: Path) -> None:
    done = run_page(place, checkpoint)
    assert done.returncode == 0, done.stderr
    assert "capitals, 4,000 tokens, official score" in done.stdout
    assert "| full | 0.00 [0.0, 79.3] (n=1) | 0.00 [0.0, 79.3] (n=1) |" in done.stdout

    from mmengine.config import Config

    from reattention_eval.harness.compose import evaluation
    from reattention_eval.harness.tasks import LongContextEvalTask, LongContextInferTask

    model = dict(
        type="reattention_eval.harness.LongContextLM", path=str(checkpoint), window=8192,
        chat_template=True,
    )  # fmt: skip
    run = evaluation(
        [model], [dict(type="full")], [dict(benchmark="capitals.CAPITALS", lengths=[4000])]
    )
    config = Config({"models": run["models"], "datasets": [run["datasets"]], "work_dir": "oc"})
    LongContextInferTask(config).run()
    LongContextEvalTask(config).run()
    twins = {
        path.relative_to(folder): path.read_bytes()
        for folder in (place / "oc", place / "outputs" / "standalone")
        for path in folder.glob("predictions/*/*.json")
    }
    assert len(twins) == 1  # one name for both
    (name,) = twins
    assert (place / "oc" / name).read_bytes() == twins[name]


def test_what_is_wrong_with_it_is_said(place: Path) -> None:
    capitals = find_benchmark("capitals.CAPITALS")
    with pytest.raises(DataError, match=r"europe.jsonl\)\. Put it there, or let REATTENTION_DATA"):
        capitals.check("europe", 4000)
    rule = TaskRule("acuracy", capitals.rules["official"]["europe"].scorer)
    wrong = replace(capitals, rules={"official": {"europe": rule}})
    detail = {"prediction": "Paris", "reference": "Paris", "scorings": ["official"]}
    with pytest.raises(ConfigError, match=r"names 'acuracy' as its main figure, .* accuracy;"):
        scored(wrong, "europe", [detail], "official")


def test_an_installed_package_brings_its_own(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("capitals", "capitals:CAPITALS", registry.ENTRY_POINTS)
    broken = EntryPoint("broken", "capitals:NOTHING", registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point, broken])
    assert list_benchmarks()[-2:] == ["capitals", "broken"]
    assert find_benchmark("capitals").name == "capitals"
    for name, says in {
        "broken": "cannot be loaded",
        "capitals.questions": "a benchmark is a `Benchmark`",
        "nothing.THERE": "cannot be loaded",
        "capital": "longbench, .*, ruler, perplexity, capitals, broken, or give package.module",
    }.items():
        with pytest.raises(ConfigError, match=says):
            find_benchmark(name)


def test_every_benchmark_here_says_whence_it_comes() -> None:
    known: list[Any] = [find_benchmark(name) for name in list_benchmarks()]
    assert all("arXiv" in benchmark.source for benchmark in known)
    for benchmark in known:
        assert set(benchmark.rules["official"]) == set(benchmark.tasks)
        assert set(benchmark.groups()["all"]) == set(benchmark.tasks)
