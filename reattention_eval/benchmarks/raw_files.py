"""Rows out of the files that benchmarks publish: JSON lines, one JSON array, or Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reattention_eval.errors import ConfigError, DataError
from reattention_eval.json_text import parse


def read_rows(path: Path, fields: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a .jsonl, .json or .parquet file in its order, each with its place.

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
        yield f"{where} of {path}", row


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield f"line {number}", parse(line)
                except ValueError as error:
                    raise DataError(
                        f"line {number} of {path} is not JSON ({error}); the file is damaged. "
                        f"Delete it and fetch it with: {_command(path)}"
                    ) from error


def _array(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        rows = parse(path.read_bytes())
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
        number = 0
        for group in parquet.ParquetFile(path).iter_batches(batch_size=16):
            for row in group.to_pylist():
                number += 1
                yield f"row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} is not Parquet ({error}); the file is damaged. Delete it and fetch it with: "
            f"{_command(path)}"
        ) from error


def _command(path: Path) -> str:
    return f"reattention-eval prepare {path.parent.name}"
