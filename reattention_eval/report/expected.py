"""What a run is to consist of, noted when it begins: what never ran is then seen to be missing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from reattention_eval.report.run import EXPECTED_FILE
from reattention_eval.whole_file import write_whole_text


def note_expected(work_dir: Path, cells: Iterable[tuple[str, str]]) -> None:
    """Write (model, dataset) down where `read_run` and `status` look for them.

    A folder that cannot be written to does not end the run here: its records will say so.
    """
    folder = work_dir / "report"
    text = json.dumps({"cells": [list(cell) for cell in cells]}, indent=1) + "\n"
    file = folder / EXPECTED_FILE
    with suppress(OSError):
        if file.is_file() and file.read_text(encoding="ascii", errors="replace") == text:
            return  # also of another process that goes on with the same run
        folder.mkdir(parents=True, exist_ok=True)
        write_whole_text(file, text)
