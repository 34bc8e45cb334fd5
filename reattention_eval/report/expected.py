"""What a run is to consist of, noted when it begins: what never ran is then seen to be missing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from reattention_eval.report.run import EXPECTED_FILE


def note_expected(work_dir: Path, cells: Iterable[tuple[str, str]]) -> None:
    """Write (model, dataset) down where `read_run` and `status` look for them.

    A folder that cannot be written to does not end the run here: its records will say so.
    """
    folder = work_dir / "report"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{EXPECTED_FILE}.part"
        part.write_text(json.dumps({"cells": list(cells)}, indent=1) + "\n", encoding="ascii")
        part.replace(folder / EXPECTED_FILE)
