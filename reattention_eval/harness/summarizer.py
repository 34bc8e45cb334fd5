"""The summarizer: OpenCompass's tables, ours, and an exit status that tells the truth."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from opencompass.summarizers import DefaultSummarizer
from opencompass.utils import dataset_abbr_from_cfg, model_abbr_from_cfg

from reattention_eval.report import build_report
from reattention_eval.report.tables import markdown
from reattention_eval.report.task_logs import said_errors


class LongContextSummarizer(DefaultSummarizer):
    """Writes summary/ as OpenCompass does, and report/: tables, heat map, manifest.

    Ends the process with status 1, naming what is wrong, when a prediction or result is missing, a
    sample failed, or a selecting method selected nothing where it had to.
    """

    def summarize(self, output_path: str | None = None, time_str: str | None = None) -> None:
        """Called by OpenCompass at the end of a run."""
        moment = time_str or datetime.now().strftime("%Y%m%d_%H%M%S")
        super().summarize(output_path=output_path, time_str=moment)
        report = build_report(Path(self.work_dir), self._expected())
        for heading, grid in report.grids.items():
            print(f"\n{heading}\n{markdown(grid)}")
        print(report.sentence)
        for note in report.notes:
            print(note)
        print("\n".join(["", *(str(path.resolve()) for path in report.files)]))
        if report.problems:
            listed = "\n".join(f"  - {problem}" for problem in report.problems)
            reasons = "".join(f"  {line}\n" for line in said_errors(Path(self.work_dir)))
            raise SystemExit(
                f"\n{len(report.problems)} problem(s), so this run does not count as whole:\n"
                f"{listed}\n{reasons}Logs: {Path(self.work_dir).resolve() / 'logs'}; "
                "run the same command with `-r` to try again only what is missing."
            )

    def _expected(self) -> list[tuple[str, str]]:
        """Every (model, dataset) the configuration asked for."""
        combinations = self.cfg.get("model_dataset_combinations") or [
            {"models": self.model_cfgs, "datasets": self.dataset_cfgs}
        ]
        return [
            (model_abbr_from_cfg(model), dataset_abbr_from_cfg(dataset))
            for group in combinations
            for model in group["models"]
            for dataset in group["datasets"]
        ]
