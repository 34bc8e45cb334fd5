"""The summarizer of smoke runs: models x methods, and proof that every selecting row selected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reattention_eval.harness.summarizer import LongContextSummarizer
from reattention_eval.report.by_model import model_grid, never_selected, selection_grid
from reattention_eval.report.run import read_run
from reattention_eval.report.tables import HEADINGS, markdown


class SmokeSummarizer(LongContextSummarizer):
    """`LongContextSummarizer`, with tables of models by methods for a single dataset.

    Args:
        must_select: methods of which every prompt must have layer-steps that selected.

    Ends the process with status 1 where one has not.
    """

    def __init__(
        self,
        config: Any,
        must_select: Sequence[str] = ("reattention", "reattention_plus"),
        **kwargs: Any,
    ) -> None:
        super().__init__(config, **kwargs)
        self.must_select = tuple(must_select)

    def summarize(self, output_path: str | None = None, time_str: str | None = None) -> None:
        """Called by OpenCompass at the end of a run."""
        super().summarize(output_path=output_path, time_str=time_str)
        cells = read_run(Path(self.work_dir), self._expected())
        tables = {
            HEADINGS["accuracy"]: model_grid(cells, "accuracy"),
            HEADINGS["answer_nll"]: model_grid(cells, "answer_nll", digits=2),
            "layer-steps that selected": selection_grid(cells),
        }
        for heading, grid in tables.items():
            print(f"\n{heading}\n\n{markdown(grid)}")
        if silent := never_selected(cells, self.must_select):
            listed = "\n".join(f"  - {sentence}" for sentence in silent)
            raise SystemExit(f"\nselection did not happen where it had to:\n{listed}")
