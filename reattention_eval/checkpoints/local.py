"""Names of models and where their checkpoints lie on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from reattention_eval.checkpoints.embedded import prepared_model_folder
from reattention_eval.checkpoints.embedded_models import EMBEDDED_MODELS
from reattention_eval.errors import ConfigError

MODELS_VARIABLE = "REATTENTION_MODELS"


def model_path(name: str) -> str:
    """The folder of a hub id in $REATTENTION_MODELS, or of an embedded model; else `name` itself.

    Looked for are NAME and OWNER/NAME in that folder; a folder counts when it holds config.json.

    Raises:
        CheckpointError: an embedded model that was not fetched.
        ConfigError: the variable names no folder.
    """
    if is_embedded(name):
        return str(prepared_model_folder(name))
    for folder in places(name):
        if (folder / "config.json").is_file():
            return str(folder.resolve())
    return name


def is_embedded(name: str | os.PathLike[str]) -> bool:
    """Whether this is the name of an embedded model; a folder of that name comes first."""
    return os.fspath(name) in EMBEDDED_MODELS and not Path(name).is_dir()


def places(hub_id: str) -> list[Path]:
    """Where `model_path` looks, in this order; nothing while the variable is unset.

    Raises:
        ConfigError: the variable names no folder.
    """
    root = os.environ.get(MODELS_VARIABLE, "").strip()
    if not root:
        return []
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f"{MODELS_VARIABLE} is {root}, which is no folder; give the folder that holds the "
            "checkpoints, one folder each, or unset it to use the hub."
        )
    return [folder / hub_id.rsplit("/", 1)[-1], folder / hub_id]
