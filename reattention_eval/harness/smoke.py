"""The smoke run: configurations of real models, carried out on their miniatures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from reattention_eval.checkpoints.miniature import HAYSTACK, miniature_folder
from reattention_eval.errors import ConfigError
from reattention_eval.harness.compose import evaluation
from reattention_eval.harness.fingerprint import plain
from reattention_eval.methods import build_method

COMMAND = "reattention-eval prepare smoke"


def smoke_run(
    models: Sequence[Mapping[str, Any]],
    methods: Sequence[Mapping[str, Any]],
    length: int,
    depths: Sequence[float],
    repeats: int,
) -> dict[str, Any]:
    """`evaluation` of one needle plan, each model on the random checkpoint of its shape.

    The entries stay as they are but for path, dtype (float32) and the GPUs, of which none is used.

    Raises:
        ConfigError: the miniatures are not there, or a method that need not select at this length.
    """
    whole = [method for method in methods if _leaves_whole(method, length)]
    if whole:
        raise ConfigError(
            f"{whole[0]} attends to all of a prompt of {length} tokens, so a run would not show "
            "that it selects; ask for a longer prompt or a smaller scope."
        )
    folder = miniature_folder()
    text = folder / HAYSTACK
    small = [_miniature(model, folder) for model in models]
    plan = {
        "benchmark": "needle", "lengths": [length], "depths": list(depths), "repeats": repeats,
        "haystack": str(text),
    }  # fmt: skip
    return evaluation(small, methods, [plan])


def side_by_side(section: Mapping[str, Any]) -> dict[str, Any]:
    """An `infer` or `eval` section whose LocalRunner starts a task on every processor.

    A task of the smoke run is one thread, and nearly all of it is imports.
    """
    runner = dict(section["runner"])
    if str(runner.get("type")).endswith("LocalRunner"):
        runner["max_num_workers"] = max(runner["max_num_workers"], os.cpu_count() or 1)
    return {**section, "runner": runner}


def _miniature(model: Mapping[str, Any], folder: Any) -> dict[str, Any]:
    place = folder / str(model["path"]).rstrip("/").rsplit("/", 1)[-1]
    if not (place / "config.json").is_file() or not (folder / HAYSTACK).is_file():
        raise ConfigError(
            f"the miniature of {model['abbr']} is not there (looked for {place}). "
            f"Write it with: {COMMAND}"
        )
    placed = ("device_map", "tensor_parallel")
    kept = {key: value for key, value in model.items() if key not in placed}
    return {**kept, "path": str(place), "dtype": "float32", "run_cfg": {"num_gpus": 0}}


def _leaves_whole(method: Mapping[str, Any], length: int) -> bool:
    built = build_method(plain(method))
    return built.whole_until is not None and not built.selects(length)
