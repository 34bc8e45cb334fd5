"""What a configuration asks of the machine that reads it."""

from __future__ import annotations

import os

from reattention_eval.checkpoints import embedded_model_folder
from reattention_eval.errors import ConfigError
from reattention_eval.harness.compose.old_variables import check_old_variables


def embedded_model() -> str:
    """Folder of the embedded model, which must have been fetched: nothing is downloaded here.

    Raises:
        ConfigError: it is not there (unless REATTENTION_RUN_MODEL names another model).
    """
    check_old_variables()
    folder = embedded_model_folder()
    replaced = os.environ.get("REATTENTION_RUN_MODEL")
    if not (folder / "config.json").is_file() and not replaced:
        raise ConfigError(
            f"the embedded model is not in the cache (looked for {folder}). Fetch it with: "
            "reattention-eval prepare demo"
        )
    return str(folder)


def gpus_per_task() -> int:
    """1 where there is a GPU, else 0: OpenCompass hides GPUs from tasks that ask for none."""
    import torch

    return 1 if torch.cuda.is_available() else 0
