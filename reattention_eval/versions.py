"""The transformers that this package was tested with."""

from __future__ import annotations

import re

from reattention_eval.errors import ConfigError

OLDEST, BEYOND = (4, 57), (6, 0)


def check_transformers(version: str | None = None) -> None:
    """Raise ConfigError unless transformers (the installed one) is in the tested range."""
    import transformers

    version = version or transformers.__version__
    found = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if not OLDEST <= found < BEYOND:
        raise ConfigError(
            f"transformers {version} is {'older' if found < OLDEST else 'newer'} than this package "
            f"was tested with; install one with: pip install 'transformers>={OLDEST[0]}.{OLDEST[1]}"
            f",<{BEYOND[0]}'."
        )
