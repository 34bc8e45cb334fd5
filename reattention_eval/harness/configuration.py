"""An eval configuration read as `opencompass` reads it, whatever is in the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from reattention_eval.errors import ConfigError, ReAttentionError

_CURE = "give the path of an eval_*.py."


def read_configuration(path: Path) -> Config:
    """The configuration, sure to list models and datasets by name.

    Raises:
        ConfigError: no such file, a file that cannot be run as a configuration, or one that is
            none.
        ReAttentionError: what the configuration itself raises.
    """
    if not path.is_file():
        raise ConfigError(f"there is no configuration {path}; {_CURE}")
    try:
        read = Config.fromfile(path, format_python_code=False)
    except ReAttentionError:
        raise
    except (Exception, SystemExit) as error:  # it is a program, which may do anything
        words = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{path} cannot be read as a configuration ({type(error).__name__}: {words}); {_CURE}"
        ) from error
    if wrong := _wrong(read):
        raise ConfigError(f"{path} is no eval configuration: {wrong}; {_CURE}")
    return read


def groups_of(read: Config) -> list[Any]:
    """What runs on what: dictionaries of `models` and `datasets`."""
    everything = [{"models": read.get("models"), "datasets": read.get("datasets")}]
    return list(read.get("model_dataset_combinations") or everything)


def _wrong(read: Config) -> str | None:
    if not isinstance(read.get("work_dir", ""), str):
        return f"its work_dir is {read['work_dir']!r:.60}, not a path"
    groups = read.get("model_dataset_combinations")
    if groups is not None and not isinstance(groups, (list, tuple)):
        return "its model_dataset_combinations are no list"
    for group in [read, *(groups or [])]:
        if not isinstance(group, Mapping) and group is not read:
            return "its model_dataset_combinations hold something else than dictionaries"
        for what in ("models", "datasets"):
            entries = group.get(what)
            if not isinstance(entries, (list, tuple)):
                return f"it has no list of {what}"
            if odd := [e for e in entries if not isinstance(e, Mapping) or not _named(e)]:
                return f"of its {what} {odd[0]!r:.60} is no dictionary with a name (abbr)"
    return None


def _named(entry: Mapping[str, Any]) -> bool:
    name = entry.get("abbr", "unnamed")  # OpenCompass names what has no name
    return isinstance(name, str) and bool(name) and "/" not in name
