"""The evaluation task: many datasets in one process, each failing on its own."""

from __future__ import annotations

import sys

from opencompass.tasks import openicl_eval
from opencompass.utils import get_logger

from reattention_eval.report.task_logs import said_line


class LongContextEvalTask(openicl_eval.OpenICLEvalTask):
    """A dataset without predictions, or whose evaluator raises, is reported and left out.

    Raises:
        SystemExit: at the end, with status 1, if any dataset was left so.
    """

    def get_command(self, cfg_path: str, template: str) -> str:
        """OpenCompass's command, with this file as the script."""
        command: str = super().get_command(cfg_path, template)
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
        except Exception as error:
            where = f"{self.model_cfg['abbr']}/{self.dataset_cfg['abbr']}"
            get_logger().exception(f"{where} could not be scored")
            print(said_line(f"{where}: ", error), file=sys.stderr, flush=True)
            self.left.append(where)


if __name__ == "__main__":
    from mmengine.config import Config

    LongContextEvalTask(Config.fromfile(sys.argv[1])).run()
