"""Short hashes of everything that changes a prediction: settings, checkpoints, data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt")
_DESCRIPTIONS = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "tokenizer.model", "chat_template.jinja",
)  # fmt: skip
_BLOCKS, _BLOCK = 64, 4096  # of a weight file, bytes of each


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

    A folder: its small files' contents and its weight files' names and sizes (of their contents
    `weights_sample` reads). Anything else (a hub id): the name itself.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return digest(["hub", path])
    small = {
        name: _file_digest(folder / name, *_state(folder / name))
        for name in _DESCRIPTIONS
        if (folder / name).is_file()
    }
    weights = {p.name: p.stat().st_size for p in folder.iterdir() if p.suffix in _WEIGHTS}
    return digest([small, weights])


def weights_sample(path: str, config: Any = None) -> str | None:
    """Tells weights of one shape and place apart, as a training that goes on leaves them.

    Of a folder's weight files evenly spaced blocks, in a moment at any size; of a hub id the commit
    that its loaded `config` names. None where neither is known.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        commit = getattr(config, "_commit_hash", None)
        return digest(["commit", commit])[:16] if commit else None
    total = hashlib.sha256()
    for file in sorted(p for p in folder.iterdir() if p.suffix in _WEIGHTS):
        size = file.stat().st_size
        with file.open("rb", buffering=0) as weights:
            for place in range(_BLOCKS):
                weights.seek(size * place // _BLOCKS)
                total.update(weights.read(_BLOCK))
    return total.hexdigest()[:16]


def _state(file: Path) -> tuple[int, int, int]:
    """Changes when the file does."""
    found = file.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


@lru_cache(maxsize=256)
def _file_digest(file: Path, *_state: int) -> str:
    """sha256; a configuration asks for that of a tokenizer once a method and plan."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def rows_fingerprint(rows: Iterable[Any]) -> str:
    """sha256 over a dataset's samples in their order."""
    total = hashlib.sha256()
    for row in rows:
        total.update(digest(row).encode())
    return total.hexdigest()
