"""Where raw benchmark files lie, and the error that says how to get one that does not."""

from __future__ import annotations

import os
from pathlib import Path

from reattention_eval.checkpoints.cache_dir import cache_folder
from reattention_eval.errors import DataError

VARIABLE = "REATTENTION_DATA"


def data_dir() -> Path:
    """The folder of $REATTENTION_DATA, else `data` in this package's cache; may not exist yet."""
    named = os.environ.get(VARIABLE, "").strip()
    return Path(named).expanduser().resolve() if named else cache_folder(None, "data")


def data_file(benchmark: str, name: str) -> Path:
    """`data_dir()/benchmark/name`, which must be there: evaluation downloads nothing.

    Raises:
        DataError: it is not; the sentence names the command that fetches it, if there is one.
    """
    from reattention_eval.datasets.prepare.lock import load_sources  # needs `data_dir` itself

    path = data_dir() / benchmark / name
    if not path.is_file():
        fetched = benchmark in load_sources()  # a benchmark of somebody's own is not
        cure = f"Fetch it with: reattention-eval prepare {benchmark}" if fetched else "Put it there"
        raise DataError(
            f"the data file {benchmark}/{name} is missing (looked for {path}). {cure}, or let "
            f"{VARIABLE} name the folder that holds {benchmark}/."
        )
    return path
