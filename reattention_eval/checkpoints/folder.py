"""Is a model folder whole? Asked before loading, because a damaged file loads with odd errors."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from reattention_eval.errors import CheckpointError

_AGAIN = "fetch the model again"
_INDEX = "model.safetensors.index.json"


def check_folder(folder: Path, *, weights: bool = True) -> None:
    """Raise what is wrong with the folder, if anything: config, shards, their lengths.

    Raises:
        CheckpointError: no config.json, no weights, a missing or a truncated file.
    """
    if not (folder / "config.json").is_file():
        found = sorted(path.name for path in folder.iterdir())[:5]
        raise CheckpointError(
            f"{folder} holds no config.json (found: {', '.join(found) or 'nothing'}); "
            "give the folder that save_pretrained or a hub download wrote."
        )
    read_json(folder / "config.json")
    if weights:
        for name in _weight_files(folder):
            check_safetensors(folder / name)


def _weight_files(folder: Path) -> list[str]:
    if (folder / _INDEX).is_file():
        try:
            names = sorted(set(read_json(folder / _INDEX)["weight_map"].values()))
        except (KeyError, AttributeError) as error:
            raise CheckpointError(
                f"{folder / _INDEX} does not list the weights; {_AGAIN}."
            ) from error
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(
                f"{folder} lacks {len(missing)} of its {len(names)} weight files "
                f"({', '.join(missing[:3])}); {_AGAIN}, or copy the missing files."
            )
        return names
    if (folder / "model.safetensors").is_file():
        return ["model.safetensors"]
    if any(folder.glob("pytorch_model*.bin")):
        return []  # torch checks its own archives
    hint = ""
    if ggufs := sorted(path.name for path in folder.glob("*.gguf")):
        hint = f" (a GGUF file, {ggufs[0]}, is not loaded)"
    raise CheckpointError(
        f"{folder} holds a config but no weights{hint}; "
        f"it needs model.safetensors, or shards and {_INDEX}: {_AGAIN}."
    )


def check_safetensors(path: Path) -> None:
    """Compare the file's size with what its header promises.

    Raises:
        CheckpointError: truncated or not a safetensors file.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (header_size,) = struct.unpack("<Q", file.read(8))
            if header_size > size:
                raise ValueError(f"its header of {header_size:,} bytes is longer than the file")
            header = json.loads(file.read(header_size))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name[:2] != "__"]
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({size:,} bytes; {error}); {_AGAIN}."
        ) from error
    expected = 8 + header_size + max(ends, default=0)
    if size != expected:
        raise CheckpointError(
            f"{path} has {size:,} bytes where its header says {expected:,}: "
            f"the download or copy was cut off; {_AGAIN}."
        )


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); {_AGAIN}.") from error
