"""JSON that others wrote: whatever is wrong with it is a ValueError, and what comes can be kept.

`json.loads` also raises RecursionError, and gives what nothing later can take: nesting that cannot
be written again, and halves of surrogate pairs, which no encoding writes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEEPEST = 64  # levels; what this project and its models write has a handful
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def parse(text: str | bytes) -> Any:
    """The value that `text` (UTF-8) holds; half a surrogate pair as the words \\udXXX.

    Raises:
        ValueError: not JSON, not UTF-8, an integer of thousands of digits, or nested deeper than
            DEEPEST levels.
    """
    decoded = text.decode("utf-8") if isinstance(text, bytes) else text
    try:
        value = json.loads(decoded)
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST} levels") from None
    # nothing nests deeper than there are brackets: most texts need no look at every value
    if decoded.count("[") + decoded.count("{") > DEEPEST:
        _check_depth(value)
    return map_strings(value, printable) if _HALF.search(decoded) else value


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: see `parse`; or a list or another value where an object belongs.
        OSError: the file cannot be read.
    """
    value = parse(path.read_bytes())
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}, not an object with names")
    return value


def printable(text: str) -> str:
    """`text` with what no encoding can write spelled out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with every string in it changed, the names of objects too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [map_strings(item, change) for item in value]
    if isinstance(value, dict):
        return {change(key): map_strings(item, change) for key, item in value.items()}
    return value


def finite(value: Any) -> Any:
    """A JSON value with null for NaN and infinities, which JSON has no words for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [
            child
            for item in level
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise ValueError(f"nested deeper than {DEEPEST} levels")
