"""Whether predictions or results are there: a file that is empty or cut off is none.

Ours are written whole; what a full disk, a crash or a killed copy leaves comes from outside.
"""

from __future__ import annotations

import logging
from pathlib import Path

from reattention_eval.json_text import read_object


def is_done(path: Path, log: logging.Logger | None = None) -> bool:
    """Whether a cell's file is there, and a JSON object; one that is damaged is told to `log`."""
    why = _damage(path)
    if why and log:
        log.warning(f"{path} is damaged ({why}): it counts as not done and is made again")
    return not why and path.is_file()


def set_aside(path: Path, log: logging.Logger) -> None:
    """Make room where a damaged file stands: OpenCompass's tasks take any file for a whole one."""
    if why := _damage(path):
        aside = path.replace(path.with_name(path.name + ".damaged"))
        log.warning(f"{path} is damaged ({why}): it is now {aside.name}, and is made again")


def _damage(path: Path) -> str:
    """What is wrong with a file; nothing where there is none, or the system cannot read it now."""
    try:
        read_object(path)
    except OSError:
        return ""
    except ValueError as error:
        return str(error)
    return ""
