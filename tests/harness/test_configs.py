"""The configurations as OpenCompass reads them, without running anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config

from reattention_eval.cli.configs import config_path
from reattention_eval.errors import CheckpointError
from reattention_eval.methods import build_method

NAMES = ("eval_demo.py", "eval_needle_sweep.py")


@pytest.fixture
def surroundings(
    checkpoint: Path, haystack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model and a text in the place of the embedded ones, an empty cache, another folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REATTENTION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REATTENTION_RUN_MODEL", str(checkpoint))
    monkeypatch.setenv("REATTENTION_HAYSTACK", str(haystack))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_out_reads_back_equal(
    name: str, surroundings: None, tmp_path: Path
) -> None:
    """OpenCompass dumps the configuration and every process reads the dump."""
    config = Config.fromfile(config_path(name), format_python_code=False)
    config.dump(tmp_path / "dump.py")
    again = Config.fromfile(tmp_path / "dump.py", format_python_code=False)
    for key in ("models", "datasets", "infer", "eval", "summarizer"):
        assert again.to_dict()[key] == config.to_dict()[key]
    assert "run" not in again
    assert again.models[0].type == "reattention_eval.harness.LongContextLM"
    assert again.infer.partitioner.num_worker == 1


@pytest.mark.parametrize("name", NAMES)
def test_every_method_fits_the_window_and_budgets_are_shared(name: str, surroundings: None) -> None:
    config = Config.fromfile(config_path(name), format_python_code=False)
    methods = [build_method(model.method.to_dict()) for model in config.models]
    for method in methods:
        method.check(8192)
    budgets = {m.name: {o.budget for o in methods if o.name == m.name} for m in methods}
    assert budgets["full"] == {None}
    assert budgets["streaming_llm"] <= budgets["reattention"]
    lengths = [dataset.length for dataset in config.datasets]
    assert min(lengths) <= 8192 < max(lengths)


def test_many_depths_from_32k_to_4m(surroundings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REATTENTION_DRY_RUN", "1")
    config = Config.fromfile(config_path("eval_needle_many_depths.py"), format_python_code=False)
    asked = {
        build_method(model.method.to_dict()).name: {
            dataset.length: len(dataset.depths) * dataset.repeats
            for group in config.model_dataset_combinations
            if model in group["models"]
            for dataset in group["datasets"]
        }
        for model in config.models
    }
    assert asked["full"] == dict.fromkeys((2**n for n in range(15, 20)), 55)
    for method in ("reattention", "streaming_llm"):
        assert asked[method] == {**asked["full"], 2**20: 33, 2**21: 22, 2**22: 11}
    assert all(d.abbr.startswith("needle-many_depths-") for d in config.datasets)


def test_without_the_model_the_command_that_fetches_it_is_named(
    surroundings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REATTENTION_RUN_MODEL")
    with pytest.raises(CheckpointError, match="reattention-eval prepare model smollm2-135m"):
        Config.fromfile(config_path("eval_demo.py"))
