"""The benchmarks' own prompt texts, quoted in prompts/*.json with their sources."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


def prompt_texts(benchmark: str) -> dict[str, Any]:
    """The file of a benchmark: `source` and one or more sets of texts by task."""
    file = resources.files("reattention_eval.benchmarks") / "prompts" / f"{benchmark}.json"
    texts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return texts
