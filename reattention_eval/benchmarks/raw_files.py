"""Rows out of the files that benchmarks publish: JSON lines, one JSON array, or Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reattention_eval.errors import ConfigError, DataError


def read_rows(path: Path, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl, .json or .parquet file in its order.

    Raises:
        DataError: not such a file, or a row without one of `fields`.
        ConfigError: Parquet, and no library for it.
    """
    read = {".json": _array, ".parquet": _parquet}.get(path.suffix, _lines)
    for where, row in read(path):
        if not isinstance(row, dict):
            raise DataError(
                f"{where} of {path} is not a JSON object but {type(row).__name__}; give the "
                "benchmark's own file."
            )
        missing = [field for field in fields if field not in row]
        if missing:
            raise DataError(
                f"{where} of {path} has no {', '.join(missing)}; found {', '.join(row)}. Give the "
                f"benchmark's own file, or fetch it with: {_command(path)}"
            )
        yield row


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield f"line {number}", json.loads(line)
                except ValueError as error:
                    raise DataError(
                        f"line {number} of {path} is not JSON ({error}); the file is damaged. "
                        f"Delete it and fetch it with: {_command(path)}"
                    ) from error


def _array(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"{path} is not JSON ({error}); the file is damaged. Delete it and fetch it with: "
            f"{_command(path)}"
        ) from error
    if not isinstance(rows, list):
        raise DataError(f"{path} is no list of rows; fetch it with: {_command(path)}")
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", row


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError as missing:
        raise ConfigError(
            f"{path.name} is read with pyarrow, which is not installed: pip install "
            '"reattention-eval[mrcr]".'
        ) from missing
    try:
        # a group at a time: prompts of a million tokens
        for group in parquet.ParquetFile(path).iter_batches(batch_size=16):
            for row in group.to_pylist():
                yield "a row", row
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} is not Parquet ({error}); the file is damaged. Delete it and fetch it with: "
            f"{_command(path)}"
        ) from error


def _command(path: Path) -> str:
    return f"reattention-eval prepare {path.parent.name}"
