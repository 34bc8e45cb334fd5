"""The append-only file of a dataset's samples: what is on disk survives a kill."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reattention_eval.harness.run_folder import writing_to
from reattention_eval.json_text import parse
from reattention_eval.report.fields import is_count
from reattention_eval.report.records import read_records
from reattention_eval.report.schema import VERSION

# what the predictions file takes over of a sample's record
KEPT = ("prediction", "gold", "answer_nll", "n_tokens", "n_cut")


def records_path(predictions_dir: str | Path, predictions_file: str) -> Path:
    """WORK/predictions/MODEL/DATASET.json -> WORK/records/MODEL/DATASET.jsonl."""
    parts = list(Path(os.path.normpath(predictions_dir)).parts)
    places = [i for i, part in enumerate(parts) if part == "predictions"]
    folder = (
        Path(*parts[: places[-1]], "records", *parts[places[-1] + 1 :])
        if places
        else Path(*parts, "records")
    )
    return folder / (predictions_file.removesuffix(".json") + ".jsonl")


class RecordLines:
    """Appends records to a file whose last line a kill may have cut off."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing_to(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _drop_unfinished(path)
        self._last = time.time()

    def append(self, *records: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Put samples on disk before anything else happens; ASCII, so nothing can split a line.

        Each says its version, when it was written, and the seconds since the one before it, shared
        by those of one call. Returns what was written.

        Raises:
            RunFolderError: the disk takes no more; the file's lines are as they were, but for the
                last one, which the next reader drops.
        """
        now = time.time()
        share = max(0.0, now - self._last) / max(1, len(records))
        stamp = {"version": VERSION, "finished": round(now, 1), "seconds": round(share, 3)}
        self._last = now
        written = [{**record, **stamp} for record in records]
        with writing_to(self.path), self.path.open("a", encoding="ascii") as file:
            file.write("".join(json.dumps(r, ensure_ascii=True) + "\n" for r in written))
            file.flush()
            os.fsync(file.fileno())
        return written


class RecordFile(RecordLines):
    """Appends records and knows which samples are done already.

    A record counts as done when its `key` is the sample's key of today: the hash of prompt and
    settings. So a changed setting under an old name never reuses an old prediction. Nor do other
    weights in an old place, where both sides say theirs (`fingerprint.weights_sample`).
    """

    def __init__(self, path: Path, keys: Sequence[str], weights: str | None = None) -> None:
        super().__init__(path)
        self.done: dict[int, dict[str, Any]] = {
            index: record
            for index, record in read_records(path).items()
            if index < len(keys) and record.get("key") == keys[index] and _answered(record)
            and (weights is None or record.get("weights") in (None, weights))
        }  # fmt: skip
        self.failed: dict[int, str] = {}

    def append(self, *records: Mapping[str, Any]) -> list[dict[str, Any]]:
        """As `RecordLines` does; the samples are then done, or failed."""
        written = super().append(*records)
        for record in written:
            index = int(record["index"])
            if record.get("error"):
                self.failed[index] = str(record["error"])
            else:
                self.done[index] = record
        return written


def _answered(record: Mapping[str, Any]) -> bool:
    """Whether it holds a prediction, and all that goes with it into the predictions file."""
    whole = isinstance(record.get("prediction"), str) and all(key in record for key in KEPT)
    nll = record.get("answer_nll")
    return whole and not record.get("error") and (nll is None or math.isfinite(nll))


def _drop_unfinished(path: Path) -> None:
    """A kill in the middle of a write leaves half a line, which the next record must not join, and
    of a batch some lines: its samples run together again, so that their figures are the same."""
    if not path.is_file():
        return
    data = path.read_bytes()
    lines = data.split(b"\n")
    if len(lines) > 1:
        kept = lines[: _whole(lines[:-1])]
        end = sum(len(line) + 1 for line in kept)
    else:
        end = 0
    if end < len(data):
        with path.open("r+b") as file:
            file.truncate(end)


def _whole(lines: Sequence[bytes]) -> int:
    """How many lines there are without those of a batch that was cut off at the end."""
    batch = _batch(lines[-1])
    size, there = batch[0], 1
    while there < len(lines) and _batch(lines[-1 - there]) == batch:
        there += 1
    return len(lines) - there % size


def _batch(line: bytes) -> tuple[int, Any, Any]:
    """How many samples ran together, and what the lines of one write share."""
    try:
        record = parse(line)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        return 1, None, None
    size: Any = record.get("batch_size")
    together = int(size) if is_count(size) and size > 0 else 1
    return together, record.get("finished"), record.get("seconds")
