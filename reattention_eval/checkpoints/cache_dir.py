"""Where downloaded and converted files live between runs."""

from __future__ import annotations

import os
from pathlib import Path

from reattention_eval.errors import ConfigError

CACHE_VARIABLE = "REATTENTION_CACHE"


def cache_folder(cache_dir: str | os.PathLike[str] | None = None, *parts: str) -> Path:
    """The folder `parts` of the cache, made if it is not there.

    The cache is `cache_dir`, else $REATTENTION_CACHE, else `reattention_eval` in the user's cache
    directory ($XDG_CACHE_HOME or ~/.cache; %LOCALAPPDATA% on Windows).

    Raises:
        ConfigError: the folder cannot be made or written to.
    """
    folder = Path(cache_dir or os.environ.get(CACHE_VARIABLE) or _user_cache()).expanduser()
    folder = folder.joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
        reason = "not writable"
    except OSError as error:
        writable, reason = False, error.strerror or str(error)
    if not writable:
        raise ConfigError(
            f"the cache folder {folder} cannot be used ({reason}); "
            f"set {CACHE_VARIABLE} to a folder that you can write to."
        )
    return folder


def _user_cache() -> Path:
    base = os.environ.get("LOCALAPPDATA") if os.name == "nt" else os.environ.get("XDG_CACHE_HOME")
    return Path(base or Path.home() / ".cache") / "reattention_eval"
