"""configs/eval_ablation_reattn.py: one setting varied at a time, group by group."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from reattention_eval.cli.configs import config_path
from reattention_eval.errors import ConfigError
from reattention_eval.harness.compose import chosen_ablations
from reattention_eval.harness.compose.run_variables import DRY_RUN
from reattention_eval.harness.partition import WorkerPartitioner
from reattention_eval.methods import ReAttention, build_method

VARIED = {
    "chunk": ("chunk_size", [512, 1024, 2048]),
    "span": ("span_size", [32, 8, 16, 64, 128]),
    "top_k": ("top_k", [4, 1, 8]),
    "local": ("local_size", [4096, 2048, 1024]),
    "score": ("score", ["qk", "qkv_l1", "qkv_l2"]),
    "selection": ("selection", ["exact", "block_max"]),
    "budget": ("budget", [8192, 2048, 4096, 16416, 32768]),
    "last_tokens": ("last_tokens", [None, 1, 16, 48, 128, "document", 48, "document"]),
    "per_kv_head": ("per_kv_head", [False, True, True, True]),
    "votes": ("votes", ["count", "rank", "margin", "mass"]),
    "span_grid": ("span_grid", [False, True]),
    "vote_memory": ("vote_memory", [0, 4, 16, 0, 4, 16]),
    "layer_slope": ("layer_slope", [0.0, -0.5, 0.5]),
    "together": ("local_size", [4096, 1024, 1024, 1024, 1024, 1024]),
}
# of last_tokens the row that vote_memory is compared with, of local the one that together is
TWICE = 2


@pytest.fixture
def model(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint trained to 32,768 tokens, by what its configuration says."""
    folder = shutil.copytree(checkpoint, tmp_path / "wide")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 32768}))
    monkeypatch.setenv(DRY_RUN, "1")
    monkeypatch.setenv("REATTENTION_RUN_MODEL", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def load() -> Any:
    return Config.fromfile(config_path("eval_ablation_reattn.py"), format_python_code=False)


def test_each_group_varies_what_it_is_named_after() -> None:
    groups = Config.fromfile(config_path("methods/ablation.py")).ablations.to_dict()
    assert list(groups) == list(VARIED)
    for name, (setting, values) in VARIED.items():
        built = [build_method(method) for method in groups[name]]
        assert built[0] == ReAttention()
        assert [getattr(method, setting) for method in built] == values
        for method in built:
            method.check(32768)
            assert method.budget == 8192 or name == "budget"
    alone = [method.get("last_alone", False) for method in groups["last_tokens"]]
    assert alone == [False] * 6 + [True] * 2


def test_all_groups_or_one_as_opencompass_reads_them(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = load()
    assert config.work_dir == "outputs/ablation"
    assert len(config.models) == 1 - TWICE + sum(len(values) - 1 for _, values in VARIED.values())
    assert {(d.task, d.length) for d in config.datasets} == {
        *[("many_depths", n) for n in (2**15, 2**17)],
        *[(task, 2**15) for task in ("niah_multikey_1", "vt")],
    }
    monkeypatch.setenv("REATTENTION_ONLY_ABLATIONS", "last_tokens")
    monkeypatch.setenv("REATTENTION_ONLY_TASKS", "vt")
    config = load()
    assert config.work_dir == "outputs/ablation-last_tokens"
    tasks = WorkerPartitioner(str(tmp_path / "predictions")).partition(
        config.model_dataset_combinations, str(tmp_path), str(tmp_path / "predictions")
    )
    cells = [
        (model.abbr, dataset.abbr)
        for task in tasks
        for model, own in zip(task["models"], task["datasets"], strict=True)
        for dataset in own
    ]
    assert len(cells) == len(set(cells)) == 8


def test_groups_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = {"a": [{"x": 1}, {"x": 2}], "b": [{"x": 1}, {"x": 3}], "c": [{"x": 4}]}
    monkeypatch.setenv("REATTENTION_ONLY_ABLATIONS", "b, A")
    assert chosen_ablations(groups) == {
        "methods": [{"x": 1}, {"x": 2}, {"x": 3}], "work_dir": "outputs/ablation",
    }  # fmt: skip
    monkeypatch.setenv("REATTENTION_ONLY_ABLATIONS", "spam")
    with pytest.raises(ConfigError, match="spam; this configuration has a, b, c"):
        chosen_ablations(groups)
