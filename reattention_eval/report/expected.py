"""What a run is to consist of, noted when it begins: what never ran is then seen to be missing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from reattention_eval.report.run import EXPECTED_FILE
from reattention_eval.whole_file import write_whole_text


def note_expected(
    work_dir: Path,
    cells: Iterable[tuple[str, str]],
    datasets: Mapping[str, Mapping[str, Any]] | None = None,
    models: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write (model, dataset) down where `read_run` and `status` look for them.

    A folder that cannot be written to does not end the run here: its records will say so.

    Args:
        datasets: what manifests will say of each (benchmark, task, length ...), so that one which
            never ran is missing in its place among the others. What is noted already stays.
        models: the same, their parts `model` and `method`.
    """
    folder = work_dir / "report"
    file = folder / EXPECTED_FILE
    with suppress(OSError):
        before = file.read_text(encoding="ascii", errors="replace") if file.is_file() else ""
        noted = {
            "cells": [list(cell) for cell in cells],
            "datasets": {**_kept(before, "datasets"), **(datasets or {})},
            "models": {**_kept(before, "models"), **(models or {})},
        }
        text = json.dumps(noted, indent=1) + "\n"
        if before == text:
            return  # also of another process that goes on with the same run
        folder.mkdir(parents=True, exist_ok=True)
        write_whole_text(file, text)


def _kept(text: str, part: str) -> dict[str, Any]:
    """{} where it is damaged, which `read_run` says of what it reads itself."""
    with suppress(ValueError, AttributeError):
        found = json.loads(text).get(part, {}).items()
        return {name: said for name, said in found if isinstance(said, dict)}
    return {}
