"""Code blocks of Markdown files."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(document: str, language: str) -> list[str]:
    """The blocks of one language in a file named from the root of the project."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return [code for kind, code in _BLOCK.findall(text) if kind == language]


def languages(document: str) -> set[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return {kind for kind, _ in _BLOCK.findall(text)}
