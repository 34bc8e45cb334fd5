"""Is a model folder whole? Asked before loading, because a damaged file loads with odd errors."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from reattention_eval.errors import CheckpointError
from reattention_eval.json_text import parse, read_object

_AGAIN = "fetch the model again"
# one file, or the index of several; in the order in which transformers looks for them
_LAYOUTS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)


def check_folder(folder: Path, *, weights: bool = True) -> None:
    """Raise what is wrong with the folder, if anything: config, shards, their lengths.

    Raises:
        CheckpointError: no config.json, no weights, a missing, truncated or damaged file (of those
            that are read while loading, and which transformers would pass over in silence).
    """
    if not (folder / "config.json").is_file():
        found = sorted(path.name for path in folder.iterdir())[:5]
        raise CheckpointError(
            f"{folder} holds no config.json (found: {', '.join(found) or 'nothing'}); "
            "give the folder that save_pretrained or a hub download wrote."
        )
    for name in ("config.json", "generation_config.json"):
        if (folder / name).is_file():
            read_json(folder / name)
    if weights:
        for name in weight_files(folder):
            if name.endswith(".safetensors"):  # torch checks its own archives
                check_safetensors(folder / name)


def weight_files(folder: Path) -> list[str]:
    """Names of the files that hold the weights: safetensors where there are any, else .bin.

    Raises:
        CheckpointError: no weights, an index that lists none, or a file of the index missing.
    """
    for whole, index in _LAYOUTS:
        if (folder / index).is_file():
            return _indexed(folder, index)
        if (folder / whole).is_file():
            return [whole]
    hint = ""
    if ggufs := sorted(path.name for path in folder.glob("*.gguf")):
        hint = f" (a GGUF file, {ggufs[0]}, is not loaded)"
    raise CheckpointError(
        f"{folder} holds a config but no weights{hint}; "
        f"it needs model.safetensors, or shards and {_LAYOUTS[0][1]}: {_AGAIN}."
    )


def _indexed(folder: Path, index: str) -> list[str]:
    try:
        listed = set(read_json(folder / index)["weight_map"].values())
    except (KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{folder / index} does not list the weights; {_AGAIN}.") from error
    odd = [n for n in listed if not isinstance(n, str) or Path(n).name != n or "\0" in n]
    if odd or not listed:
        raise CheckpointError(
            f"{folder / index} does not list the weights "
            f"({f'{odd[0]!r} is no file of this folder' if odd else 'it is empty'}); {_AGAIN}."
        )
    names = sorted(listed)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of its {len(names)} weight files "
            f"({', '.join(missing[:3])}); {_AGAIN}, or copy the missing files."
        )
    return names


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
            header = parse(file.read(header_size))
        entries = [entry for name, entry in header.items() if name[:2] != "__"]
        end = max((int(entry["data_offsets"][1]) for entry in entries), default=0)
    except (
        OSError,
        OverflowError,
        IndexError,
        struct.error,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({size:,} bytes; {error}); {_AGAIN}."
        ) from error
    expected = 8 + header_size + end
    if size != expected:
        raise CheckpointError(
            f"{path} has {size:,} bytes where its header says {expected:,}: "
            f"the download or copy was cut off; {_AGAIN}."
        )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file of the folder; raises CheckpointError."""
    try:
        return read_object(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); {_AGAIN}.") from error
