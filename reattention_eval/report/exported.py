"""Which cells may leave a run for other tools, whose readers see no list of problems."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reattention_eval.errors import DataError
from reattention_eval.report.predictions import REMAKE, read_predictions
from reattention_eval.report.records import failed
from reattention_eval.report.run import Cell
from reattention_eval.report.stale import stale


def exportable(cells: Sequence[Cell], work_dir: Path) -> tuple[list[Cell], list[str]]:
    """Those whose answers and figures belong together, and why the others' do not.

    Raises:
        DataError: none does.
    """
    reasons = [_refusal(cell, work_dir) for cell in cells]
    kept = [cell for cell, reason in zip(cells, reasons, strict=True) if reason is None]
    refused = [
        f"{cell.model} on {cell.dataset}: {reason}"
        for cell, reason in zip(cells, reasons, strict=True)
        if reason is not None
    ]
    if not kept:
        raise DataError("nothing can be exported.\nerror: " + "\nerror: ".join(refused))
    return kept, refused


def _refusal(cell: Cell, work_dir: Path) -> str | None:
    if cell.predicted.wrong:
        return f"its predictions file {cell.predicted.wrong}; {REMAKE}"
    lost = failed(cell.records)
    if cell.result and lost:
        index, reason = next(iter(lost.items()))
        return (
            f"sample {index} failed ({reason}), and the result that is there counts it: it is of "
            "earlier predictions; delete it and run again with `-r`."
        )
    return stale(cell, read_predictions(work_dir, cell.model, cell.dataset))
