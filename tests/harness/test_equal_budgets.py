"""The configuration that gives every method one budget."""

from __future__ import annotations

from mmengine.config import Config

from reattention_eval.cli.configs import config_path
from reattention_eval.methods import build_method


def test_the_configuration_of_equal_budgets():
    config = Config.fromfile(config_path("methods/equal_budgets.py"))
    for budget in (8192, 16416):
        built = [build_method(method.to_dict()) for method in config[f"budget_{budget}"]]
        assert {method.budget for method in built} == {budget}
        assert {"reattention", "quest", "oracle_topk"} <= {method.name for method in built}
        for method in built:
            method.check(32768)
    assert {build_method(method.to_dict()).budget for method in config.whole_cache} == {None}
    sizes = [len(config[key]) for key in ("whole_cache", "budget_8192", "budget_16416")]
    assert len(config.methods) == sum(sizes)
