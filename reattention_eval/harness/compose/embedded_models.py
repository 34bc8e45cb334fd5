"""A configuration's entry for an embedded model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from reattention_eval.checkpoints import (
    EMBEDDED_MODELS,
    embedded_model_folder,
    model_path,
    prepared_model_folder,
)
from reattention_eval.checkpoints.embedded_models import DEFAULT_MODEL, find_embedded_model
from reattention_eval.checkpoints.local import is_embedded
from reattention_eval.harness.compose.machine import gpus_per_task
from reattention_eval.harness.compose.old_variables import check_old_variables
from reattention_eval.methods import ReAttentionPlus


def embedded_model(name: str = DEFAULT_MODEL) -> dict[str, Any]:
    """A model's entry in a configuration, without its type; nothing is downloaded here.

    Its abbr, which tables show, is the hub's name and the quantisation. All embedded models answer
    in their own chat turn.

    Raises:
        CheckpointError: it was not fetched (unless REATTENTION_RUN_MODEL names another model).
        ConfigError: no such model.
    """
    check_old_variables()
    if os.environ.get("REATTENTION_RUN_MODEL"):
        return _entry(name, str(embedded_model_folder(name)))  # never read
    return _entry(name, str(prepared_model_folder(name)))


def replacing_entry(path: str) -> dict[str, Any] | None:
    """The entry of the embedded model that REATTENTION_RUN_MODEL names, by its name or its hub id.

    By hub id it has the hub's own weights, and else the same settings. None for other models.

    Raises: as `embedded_model`.
    """
    if is_embedded(path):
        return _entry(path, str(prepared_model_folder(path)))
    for model in EMBEDDED_MODELS.values():
        if path == model.hub and not Path(path).is_dir():
            return {**_entry(model.name, model_path(path)), "abbr": path.rpartition("/")[2]}
    return None


def _entry(name: str, path: str) -> dict[str, Any]:
    model = find_embedded_model(name)
    return dict(
        abbr=model.label,
        path=path,
        chat_template=True,
        window=model.window,
        method_settings=scopes(model.window),
        batch_size=1,
        run_cfg=dict(num_gpus=gpus_per_task()),
    )


def scopes(window: int) -> dict[str, dict[str, int]]:
    """The paper's scopes for windows of 8,192 and from 16,416 on; for others, half local."""
    local = min(8192, window // 2)
    return scopes_of(local, min(256, (window - local - 32) // 32))


def scopes_of(local: int, spans: int) -> dict[str, dict[str, int]]:
    """As many keys for each method, 32 of them the first, as ReAttention's scope of such sizes."""
    # half of `local` is of the scope an eighth less its first tokens; a chunk must fit into it
    near = max(local // 4, min(local, ReAttentionPlus.chunk_size))
    more, rest = divmod(local - near, 32)
    return {
        "reattention": {"local_size": local, "max_spans": spans},
        "reattention_plus": {"local_size": near + rest, "max_spans": spans + more},
        "streaming_llm": {"window_size": local + 32 * spans},
    }
