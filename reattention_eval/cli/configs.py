"""Where the configurations are: inside an installed package, or beside it in a checkout."""

from __future__ import annotations

from pathlib import Path

import reattention_eval
from reattention_eval.errors import ConfigError


def config_path(name: str) -> Path:
    """`eval_demo.py` -> its full path.

    Raises:
        ConfigError: neither place has it.
    """
    package = Path(reattention_eval.__file__).resolve().parent
    places = [package / "configs" / name, package.parent / "configs" / name]
    for place in places:
        if place.is_file():
            return place
    raise ConfigError(
        f"the configuration {name} is neither {places[0]} nor {places[1]}; reinstall the package, "
        "or give opencompass the path of your own configuration."
    )
