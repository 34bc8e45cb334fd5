"""Per-sample records: one JSON object a line; of lines with the same index the last one counts.

What a line holds says `schema`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reattention_eval.json_text import parse
from reattention_eval.report.fields import RECORD, wrong_field
from reattention_eval.report.schema import refuse_newer


def read_records(path: Path) -> dict[int, dict[str, Any]]:
    """Records of one dataset by sample index; a line cut off by a kill, or damaged, is ignored.

    Its sample is then as one that was never run. Only a line feed ends a line: prompts may hold
    U+2028, U+2029 or U+0085.

    Raises:
        DataError: a line of a newer version than this one reads.
    """
    records: dict[int, dict[str, Any]] = {}
    if not path.is_file():
        return records
    for line in path.read_bytes().split(b"\n"):
        try:
            record = parse(line)
        except ValueError:
            continue
        if not isinstance(record, dict) or "index" not in record:
            continue
        refuse_newer(record, path)
        if not wrong_field(record, RECORD):
            records[record["index"]] = record
    return records


def failed(records: dict[int, dict[str, Any]]) -> dict[int, str]:
    """Index -> reason of the samples whose last attempt raised."""
    return {i: str(r["error"]) for i, r in sorted(records.items()) if r.get("error")}
