"""Short hashes of everything that changes a prediction: settings, checkpoints, data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt")
_DESCRIPTIONS = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "tokenizer.model", "chat_template.jinja",
)  # fmt: skip


def plain(value: Any) -> Any:
    """`value` as JSON can hold it; a class, or mmengine's stand-in for one, as its dotted path."""
    if isinstance(value, Mapping):
        return {str(key): plain(value[key]) for key in value}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, type):
        return f"{value.__module__}.{value.__name__}"
    return str(value)


def digest(value: Any) -> str:
    """sha256 of `value`'s canonical JSON."""
    text = json.dumps(plain(value), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def checkpoint_fingerprint(path: str) -> str:
    """Says which checkpoint `path` is, wherever it lies.

    A folder: its small files' contents and its weight files' names and sizes. Anything else (a hub
    id): the name itself.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return digest(["hub", path])
    small = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in _DESCRIPTIONS
        if (folder / name).is_file()
    }
    weights = {p.name: p.stat().st_size for p in folder.iterdir() if p.suffix in _WEIGHTS}
    return digest([small, weights])


def rows_fingerprint(rows: Iterable[Any]) -> str:
    """sha256 over a dataset's samples in their order."""
    total = hashlib.sha256()
    for row in rows:
        total.update(digest(row).encode())
    return total.hexdigest()
