"""A package of somebody else's, installed, with a method of each kind: attached, and run by
OpenCompass from a configuration that names one by its entry point and one by its class."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from reattention_eval import attach
from reattention_eval.methods import NativeMethod, ViewMethod, build_method, list_methods

ROOT = Path(__file__).parents[2]
METHODS = """methods = [
    dict(type="every_third", recent=512),
    dict(type="example_methods.KeepEnds", sink=4, recent=508),
]
"""
RUN = """from mmengine.config import read_base

from reattention_eval.harness.compose import evaluation

with read_base():
    from .methods.of_others import methods
    from .models.embedded import models
    from .runners.auto import eval, infer
    from .summarizers.long_context import summarizer

plan = dict(benchmark="needle", lengths=[400, 1500], depths=[50], repeats=1)
run = evaluation.build()(models, methods, [plan])
models, datasets = run["models"], run["datasets"]
model_dataset_combinations = run["model_dataset_combinations"]
del run, plan, methods
work_dir = "outputs/of_others"
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip has put the example package."""
    place = tmp_path_factory.mktemp("installed")
    source = shutil.copytree(ROOT / "docs" / "examples" / "example_methods", place / "source")
    target = place / "site"
    words = ("--no-index", "--no-build-isolation", "--no-deps", "--quiet", "--target", str(target))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *words, str(source)], check=True, timeout=300
    )
    return target


@pytest.fixture
def importable(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(installed))
    yield
    sys.modules.pop("example_methods", None)


@pytest.mark.usefixtures("importable")
def test_attached(checkpoint: Path) -> None:
    assert {"every_third", "keep_ends"} < set(list_methods())
    kinds = {"every_third": ViewMethod, "keep_ends": NativeMethod}
    settings = {"every_third": dict(recent=20, chunk_size=20), "keep_ends": dict(recent=20)}
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    text = "the dog and the fox " * 40
    ids = AutoTokenizer.from_pretrained(checkpoint)(text, return_tensors="pt")["input_ids"]
    tokens = {}
    for name, kind in kinds.items():
        method = build_method(dict(type=name, **settings[name]))
        assert isinstance(method, kind)
        with attach(model, method) as session:
            tokens[name] = session.generate(ids, 8).tolist()
            assert session.stats.layer_steps_selected > 0
    with attach(model, "full") as session:
        assert session.generate(ids, 8).tolist() not in tokens.values()


def test_run_by_opencompass(
    installed: Path, checkpoint: Path, haystack: Path, tmp_path: Path
) -> None:
    configs = shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (configs / "methods" / "of_others.py").write_text(METHODS)
    (configs / "eval_of_others.py").write_text(RUN)
    path = os.pathsep.join(map(str, (installed, ROOT, ROOT / "kernels")))
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1", "REATTENTION_CACHE": str(tmp_path / "cache"),
        "REATTENTION_RUN_MODEL": str(checkpoint), "REATTENTION_HAYSTACK": str(haystack),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "opencompass.cli.main", "configs/eval_of_others.py", "--debug"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (tmp_path / "outputs" / "of_others").glob("2*")
    found = {}
    for file in (run / "records").glob("*/*.jsonl"):
        words = file.parent.name.split("-")
        for record in map(json.loads, file.read_text().splitlines()):
            found[words[2], record["n_tokens"] > 612] = record
    assert set(found) == {
        (name, beyond) for name in ("every_third", "keep_ends") for beyond in (False, True)
    }
    for (_, beyond), record in found.items():
        assert record["must_select"] == beyond
        assert (record["layer_steps_selected"] > 0) == beyond
    names = " ".join(folder.name for folder in (run / "records").iterdir())
    assert "-every_third-612-" in names
    assert "-keep_ends-512-" in names
    table = (run / "report" / "table.md").read_text()
    assert all(name in table for name in ("every_third", "keep_ends"))
    listed = subprocess.run(
        [sys.executable, "-c", "from reattention_eval.cli import app; app()", "methods"],
        env={**environment, "COLUMNS": "200"}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "every_third" in listed
    assert "docs/examples/example_methods" in listed
