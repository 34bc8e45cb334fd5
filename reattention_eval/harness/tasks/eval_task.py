"""The evaluation task: many datasets in one process, each failing on its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from opencompass.tasks import openicl_eval
from opencompass.utils import get_infer_output_path, get_logger

from reattention_eval.errors import RunFolderError
from reattention_eval.harness.only_writer import LOCK_SECONDS, held
from reattention_eval.harness.own_log import OwnLog
from reattention_eval.harness.record_file import records_path
from reattention_eval.harness.run_folder import UNFINISHED, writing_to
from reattention_eval.harness.task_script import arguments, run_script
from reattention_eval.report.task_logs import said_line


class LongContextEvalTask(OwnLog, openicl_eval.OpenICLEvalTask):
    """A dataset without predictions, or whose evaluator raises, is reported and left out.

    Raises:
        SystemExit: at the end, with status 1, if any dataset was left so.
        RunFolderError: the run's folder takes no more.
    """

    work_dir: str

    def get_command(self, cfg_path: str, template: str) -> str:
        """OpenCompass's command, with this file as the script."""
        command: str = super().get_command(arguments(cfg_path), template)
        return command.replace(openicl_eval.__file__, __file__)

    def run(self) -> None:
        """Score every dataset of every model."""
        self.left: list[str] = []
        super().run()
        if self.left:
            raise SystemExit("not scored: " + ", ".join(self.left))

    def _score(self) -> None:
        try:
            super()._score()
        except RunFolderError:
            raise
        except Exception as error:
            where = f"{self.model_cfg['abbr']}/{self.dataset_cfg['abbr']}"
            get_logger().exception(f"{where} could not be scored")
            print(said_line(f"{where}: ", error), file=sys.stderr, flush=True)
            self.left.append(where)

    def _save_results(self, result: dict[str, Any]) -> None:
        """A result is whole or absent: what a kill leaves of one would count as done. Another run
        in this folder may be writing the same one, or have written it: nobody would come back to
        what a kill left of a second."""
        whole, work_dir = self._result(), self.work_dir
        records = records_path(Path(work_dir) / "predictions" / whole.parent.name, whole.name)
        with held(records, LOCK_SECONDS, get_logger()):
            if whole.is_file():
                return
            self.work_dir = str(Path(work_dir) / UNFINISHED)
            try:
                with writing_to(whole):
                    super()._save_results(result)
                    whole.parent.mkdir(parents=True, exist_ok=True)
                    self._result().replace(whole)
            finally:
                self.work_dir = work_dir

    def _result(self) -> Path:
        folder = str(Path(self.work_dir) / "results")
        return Path(get_infer_output_path(self.model_cfg, self.dataset_cfg, folder))


if __name__ == "__main__":
    run_script(LongContextEvalTask, sys.argv[1:])
