"""What configs/eval_ablation_reattn.py runs: one setting varied at a time, all groups or some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reattention_eval.harness.compose.run_variables import pick

VARIABLE = "REATTENTION_ONLY_ABLATIONS"


def chosen_ablations(groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """`methods` of the groups that REATTENTION_ONLY_ABLATIONS names, and the `work_dir` of them.

    A setting that stands in several groups is there once. One group alone has a folder of its own,
    so that the report's tables and curves of it are of what it varies.

    Raises:
        ConfigError: no such group.
    """
    names = pick(VARIABLE, list(groups))
    methods: list[Mapping[str, Any]] = []
    for name in names:
        methods += [method for method in groups[name] if method not in methods]
    folder = "outputs/ablation"
    return {"methods": methods, "work_dir": f"{folder}-{names[0]}" if len(names) == 1 else folder}
