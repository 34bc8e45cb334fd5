"""Can a checkpoint be had at all? Asked of every model before the first one is run."""

from __future__ import annotations

import os
from pathlib import Path

from reattention_eval.checkpoints.folder import check_folder
from reattention_eval.checkpoints.hub import hub_error
from reattention_eval.checkpoints.read import local_or_hub, read_config, read_settings

_SECONDS = 10  # that a hub may take to answer at all


def check_access(path: str | os.PathLike[str], tensor_parallel: int = 1) -> None:
    """Loads nothing: a folder must be whole, a hub id must give its config.json.

    Args:
        tensor_parallel: processes that are to share the model.

    Raises:
        CheckpointError: no such folder, a missing or truncated shard, or a hub that refuses (a
            gated model, an unknown name) or cannot be reached.
        ConfigError: the processes do not divide the model's heads.
    """
    source = local_or_hub(path)
    if isinstance(source, Path):
        check_folder(source)
    else:
        fetch_config(source)
    if tensor_parallel > 1:
        from reattention_eval.parallel import check_split

        check_split(read_config(source, read_settings(source)), tensor_parallel)


def fetch_config(hub_id: str) -> None:
    """config.json of a hub model into the hub's own cache, if it is not there.

    Whether the hub answers is asked first: the hub library tries a broken network for half a
    minute, each time again.

    Raises:
        CheckpointError: the hub refuses, or cannot be reached.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import get_session

    if isinstance(try_to_load_from_cache(hub_id, "config.json"), str):
        return
    # requests' errors are OSErrors, httpx's have a base of their own
    transport: tuple[type[Exception], ...] = (OSError, ValueError, HfHubHTTPError.__bases__[0])
    try:
        if not constants.HF_HUB_OFFLINE:
            get_session().head(constants.ENDPOINT, timeout=_SECONDS)
        hf_hub_download(hub_id, "config.json")
    except transport as error:
        raise hub_error(hub_id, "config.json", error) from error
