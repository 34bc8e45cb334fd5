"""Variables that were given other names."""

from __future__ import annotations

import os

from reattention_eval.errors import ConfigError

_OLD_PREFIXES = ("REATTENTION_DEMO_", "REATTENTION_SWEEP_")
# what the variables of the demo and the sweep are now, behind REATTENTION_
_NEW_NAMES = {
    "MODEL": "RUN_MODEL", "METHODS": "ONLY_METHODS", "LENGTHS": "LENGTHS", "DEPTHS": "DEPTHS",
    "REPEATS": "REPEATS", "HAYSTACK": "HAYSTACK",
}  # fmt: skip


def check_old_variables() -> None:
    """Raise ConfigError, naming the new one, if a variable is set that is not read any more."""
    for prefix in _OLD_PREFIXES:
        for old, new in _NEW_NAMES.items():
            if os.environ.get(prefix + old):
                raise ConfigError(
                    f"{prefix}{old} is not read any more; set REATTENTION_{new} instead."
                )
