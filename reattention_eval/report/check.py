"""Holds the files of a run against the schema (`schema`, docs/records.md), line by line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reattention_eval.errors import DataError
from reattention_eval.json_text import parse, read_object
from reattention_eval.report.fields import is_count, shown, wrong_manifest, wrong_result
from reattention_eval.report.predictions import REMAKE
from reattention_eval.report.run import Cell, read_run
from reattention_eval.report.schema import (
    ANSWERED,
    COMMON,
    FAILED,
    KINDS,
    NULLABLE,
    VERSION,
    Field,
    migrated,
    refuse_newer,
)

# of one file; further ones are counted
_MOST_SAID = 3
# a record is a few kilobytes and its answer: more than that holds what does not belong there
_BYTES_ASIDE = 64 * 1024
_KNOWN = {**COMMON, **FAILED, **ANSWERED}
_TEXTS = ("prediction", "gold", "value", "error", "attended")


@dataclass
class Checked:
    """What was looked at, and what is wrong with it, a sentence each."""

    records: int = 0
    files: int = 0
    size: int = 0  # bytes of records
    versions: dict[int, int] = field(default_factory=dict)  # records by version
    problems: list[str] = field(default_factory=list)


def check_run(work_dir: Path) -> Checked:
    """Every record, manifest and result of a run, and whether they fit each other.

    Raises:
        DataError: a file of a newer version, or that cannot be read.
    """
    found = Checked()
    for path in sorted((work_dir / "records").glob("*/*.jsonl")):
        found.files += 1
        _report(found, path.relative_to(work_dir), _records(path, found))
    for path in sorted((work_dir / "records").glob("*/*.manifest.json")):
        found.files += 1
        _report(found, path.relative_to(work_dir), _manifest(path))
    for path in sorted((work_dir / "results").glob("*/*.json")):
        found.files += 1
        _report(found, path.relative_to(work_dir), _result(path))
    if not found.problems:
        for cell in read_run(work_dir):
            _report(found, Path(cell.model) / cell.dataset, _fitting(cell))
    return found


def _report(found: Checked, where: Path, wrong: Iterator[str]) -> None:
    sentences = list(wrong)
    found.problems += [f"{where}: {sentence}" for sentence in sentences[:_MOST_SAID]]
    if (more := len(sentences) - _MOST_SAID) > 0:
        found.problems.append(f"{where}: {more:,} further problems.")


def _records(path: Path, found: Checked) -> Iterator[str]:
    lines = _read(path).split(b"\n")
    if lines.pop():
        yield "the last line has no end: a kill cut it off, and `-r` makes it anew."
    found.size += path.stat().st_size
    for number, line in enumerate(lines, 1):
        try:
            record = parse(line)
        except ValueError as error:
            yield f"line {number} is not JSON ({error})."
            continue
        if not isinstance(record, dict):
            yield f"line {number} is a {type(record).__name__}, not an object."
            continue
        refuse_newer(record, path)
        found.records += 1
        version = record.get("version", 1)
        if is_count(version):
            found.versions[version] = found.versions.get(version, 0) + 1
        texts = sum(len(str(record.get(key) or "")) for key in _TEXTS)
        # what is not ASCII takes up to twelve bytes a character
        if len(line) > _BYTES_ASIDE + 12 * texts:
            yield f"line {number} has {len(line):,} bytes: something large that is no answer."
        for wrong in wrong_record(record):
            yield f"line {number}: {wrong}"


def wrong_record(record: Mapping[str, Any]) -> Iterator[str]:
    """What of a record is not as the schema has it."""
    old = "version" not in record
    fields: dict[str, Field] = {**COMMON, **(FAILED if record.get("error") else ANSWERED)}
    for name, (kind, required, _) in fields.items():
        if name not in record:
            if name == "index" or (required and not old):
                yield f"{name} is missing."
            continue
        value = record[name]
        if not (value is None and name in NULLABLE) and not KINDS[kind](value):
            yield f"{name} is {shown(value)}, no {kind}."
    if not record.get("error") and "prediction" not in record and "value" not in record:
        yield "neither prediction nor value nor error."
    for name, value in record.items():
        if name not in _KNOWN and isinstance(value, (list, dict)):
            yield f"{name} is in no version of the schema, and is a {type(value).__name__}."


def _manifest(path: Path) -> Iterator[str]:
    try:
        manifest = read_object(path)
    except ValueError as error:
        yield f"not JSON ({error})."
        return
    refuse_newer(manifest, path)
    if wrong := wrong_manifest(manifest):
        yield f"{wrong}."
        return
    whole = migrated(manifest, path)
    for part in ("model", "method", "dataset"):
        if not whole.get(part):
            yield f"it has no {part}."
    for name in ("abbr", "n", "fingerprint"):
        if whole.get("dataset") and whole["dataset"].get(name) is None:
            yield f"dataset has no {name}."
    if not isinstance(whole.get("environment"), list) or not whole["environment"]:
        yield "environment names no process."


def _result(path: Path) -> Iterator[str]:
    try:
        wrong = wrong_result(read_object(path))
    except ValueError as error:
        wrong = f"not JSON ({error})"
    if wrong:
        yield f"{wrong}."


def _fitting(cell: Cell) -> Iterator[str]:
    """Whether the files of a cell say the same."""
    n = cell.manifest.get("dataset", {}).get("n")
    if n is None:
        if cell.untold:
            yield f"{cell.untold}: nothing says what was asked."
        return
    if cell.beyond:
        yield f"{cell.beyond} records are of samples beyond the {n} that there are."
    if cell.predicted.wrong:
        yield f"its predictions file {cell.predicted.wrong}; {REMAKE}"
    if cell.has_predictions and cell.records and len(cell.records) < n:
        yield f"predictions of {n} samples, records of {len(cell.records)}."
    failed = [index for index, record in cell.records.items() if record.get("error")]
    if cell.has_predictions and failed:
        yield f"predictions, yet sample {failed[0]} failed."


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error


def summary(found: Checked) -> str:
    """What was checked, in one sentence."""
    versions = ", ".join(f"{n:,} of version {v}" for v, n in sorted(found.versions.items()))
    mean = f", {found.size / found.records / 1024:.1f} KiB each" if found.records else ""
    return (
        f"{found.files} files, {found.records:,} records ({versions or 'none'}{mean}); the schema "
        f"is version {VERSION}: {len(found.problems)} problem(s)."
    )
