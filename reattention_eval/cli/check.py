"""`reattention-eval report RUN --check`."""

from __future__ import annotations

from pathlib import Path

from reattention_eval.cli.console import err, out
from reattention_eval.report.check import check_run, summary


def show_check(work_dir: Path) -> bool:
    """False where a file is not as the schema has it."""
    found = check_run(work_dir)
    out.print(summary(found), soft_wrap=True, markup=False)
    for problem in found.problems:
        err.print(f"problem: {problem}", style="red", soft_wrap=True, markup=False)
    return not found.problems
