"""docs/variables.md names exactly the variables that the code reads."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
READ_IN = ("reattention_eval", "kernels", "configs", "scripts")
KINDS = {".py", ".sh", ".sbatch"}
NAME = re.compile(r"\bREATTENTION_[A-Z0-9_]+")


def in_code() -> set[str]:
    """Names in source files, without what others begin with (REATTENTION_ONLY)."""
    texts = (
        path.read_text(encoding="utf-8")
        for folder in READ_IN
        for path in (ROOT / folder).rglob("*")
        if path.suffix in KINDS
    )
    found = {name for text in texts for name in NAME.findall(text)}
    longer = {name for name in found if not name.endswith("_")}
    return {
        name
        for name in longer
        if not any(other.startswith(f"{name}_") for other in longer) and f"{name}_" not in found
    }


def in_table() -> set[str]:
    text = (ROOT / "docs/variables.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `(REATTENTION_[A-Z0-9_]+)`", text, re.MULTILINE))


def test_the_table_has_every_variable_of_the_code_and_no_other() -> None:
    code, table = in_code(), in_table()
    assert len(table) > 20
    assert table == code
