"""The configurations that give every method one budget, and the table that is made of them."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from reattention_eval.cli.configs import config_path
from reattention_eval.harness.compose.run_variables import DRY_RUN, chosen_methods
from reattention_eval.methods import build_method, list_methods, method_class
from reattention_eval.methods.base import EVICTION

# needs a press, is a number of the reader's own, or what `full` is
LEFT_OUT = {"kvpress", "native_full"}


def test_every_method_is_there_at_each_budget():
    config = Config.fromfile(config_path("methods/equal_budgets.py"))
    with_budget = {n for n in list_methods() if method_class(n).budget_meaning} - LEFT_OUT
    for budget in (2048, 8192, 16416):
        built = [build_method(method.to_dict()) for method in config[f"budget_{budget}"]]
        assert {method.budget for method in built} == {budget}
        assert {method.name for method in built} == with_budget
        for method in built:
            method.check(32768)
    whole = {build_method(method.to_dict()).on(32768) for method in config.whole_cache}
    assert {method.budget for method in whole} == {None}
    assert {method.name for method in whole} == {*list_methods()} - with_budget - LEFT_OUT
    names = ["whole_cache", "question_unseen_8192"]
    names += [f"{kind}_{n}" for kind in ("budget", "question_alone") for n in (8192, 16416)]
    assert len(config.methods) == sum(len(config[key]) for key in names)
    unseen = [build_method(method.to_dict()) for method in config.question_unseen_8192]
    assert {method.family for method in unseen} == {EVICTION}
    assert {method.query_aware for method in unseen} == {False}
    paper = [build_method(method.to_dict()).budget for method in config.infllm_paper]
    assert [budget - 8192 for budget in paper] == [543, 639]  # docs/methods.md


@pytest.fixture
def wide(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "wide")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 32768}))
    monkeypatch.setenv(DRY_RUN, "1")
    monkeypatch.setenv("REATTENTION_RUN_MODEL", str(folder))
    monkeypatch.chdir(tmp_path)


def cells(config: Any) -> dict[str, set[tuple[str, int]]]:
    """(task, length) by model with method, its hash aside."""
    found = defaultdict(set)
    for group in config.model_dataset_combinations:
        for model in group.models:
            asked = {(d.task, int(d.abbr.split("-")[-2])) for d in group.datasets}
            found[model.abbr.removeprefix("wide-").rpartition("-")[0]] |= asked
    return found


def test_what_the_table_asks(wide: None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = cells(Config.fromfile(config_path("eval_methods.py"), format_python_code=False))
    ruler = {"niah_multikey_1", "vt", "fwe", "qa_1"}
    documents = {(t, 31500) for t in ("quality", "multidoc_qa", "multi_news", "multifieldqa_zh")}
    sizes = [2**n for n in range(13, 19)]
    inside = {(t, n) for t in {*ruler, "many_depths"} for n in sizes[:3]} | documents
    beyond = {*[("many_depths", n) for n in sizes[3:]], *[(t, 2**16) for t in ruler]}
    million = {("many_depths", 2**19), ("many_depths", 2**20)}
    assert found["reattention-8192"] == inside | beyond
    assert found["infllm-16416"] == inside | beyond | million
    assert found["dynamic_ntk"] == inside - documents | beyond | million
    assert found["quest-8192"] == found["snapkv-16416"] == inside - documents
    assert found["quest-8192-cut31500"] == found["full-cut31500"] == documents | beyond
    assert found["full"] == inside - documents | beyond
    monkeypatch.setenv("REATTENTION_ONLY_METHODS", "reattention-8192,full")
    monkeypatch.setenv("REATTENTION_ONLY_TASKS", "vt")
    monkeypatch.setenv("REATTENTION_ONLY_LENGTHS", "64K")
    found = cells(Config.fromfile(config_path("eval_methods.py"), format_python_code=False))
    assert set(found) == {"reattention-8192", "full", "full-cut31500"}
    assert all(own == {("vt", 2**16)} for own in found.values())


def test_the_small_table_on_the_same_rows(wide: None) -> None:
    found = cells(Config.fromfile(config_path("eval_methods_small.py"), format_python_code=False))
    assert len(found) == 20  # two of them with the question seen and not
    assert ("many_depths", 10240) in found["infllm-2048"] & found["dca"] & found["linear"]
    assert found["reattention_plus-2048"] == found["reattention-2048"]
    assert ("many_depths", 10240) not in found["quest-2048"] | found["snapkv-2048"]


def test_a_method_is_named_with_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    methods = [dict(type="full"), *[dict(type="quest", budget_tokens=n) for n in (64, 128)]]
    for words, chosen in [("quest-64", [1]), ("QUEST", [1, 2]), ("quest-128,full", [0, 2])]:
        monkeypatch.setenv("REATTENTION_ONLY_METHODS", words)
        assert chosen_methods(methods) == [methods[i] for i in chosen]
    methods = [dict(type=name, budget_tokens=64) for name in ("reattention", "reattention_plus")]
    for i, words in enumerate(["reattention,", "Reattention_Plus", "reattention-64"]):
        monkeypatch.setenv("REATTENTION_ONLY_METHODS", words)
        assert chosen_methods(methods) == [methods[i % 2]]  # not what begins so
