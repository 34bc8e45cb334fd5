"""The inference task: one model, many datasets, loaded once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from opencompass.tasks import openicl_infer
from opencompass.utils import get_logger, model_abbr_from_cfg

# OpenMP threads that spin while they wait take a busy machine's cores from those they wait for:
# prefill on two cores beside two other processes was ten times slower so
PATIENT = "OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} "


class LongContextInferTask(openicl_infer.OpenICLInferTask):
    """A dataset that cannot be built or run is reported and the next one is taken.

    Raises:
        SystemExit: at the end, with status 1, if any predictions file is missing.
    """

    def get_command(self, cfg_path: str, template: str) -> str:
        """OpenCompass's command, with this file as the script."""
        command: str = super().get_command(cfg_path, template)
        return PATIENT + command.replace(openicl_infer.__file__, __file__)

    def run(self, cur_model: Any = None, cur_model_abbr: str | None = None) -> None:
        """Run every dataset of every model."""
        wanted: list[tuple[Any, Any]] = [
            *zip(self.cfg["models"], self.cfg["datasets"], strict=True)
        ]
        for model_cfg, dataset_cfgs in wanted:
            abbr = model_abbr_from_cfg(model_cfg)
            self.model = cur_model if cur_model_abbr == abbr else None
            for dataset_cfg in dataset_cfgs:
                self.model_cfgs, self.dataset_cfgs = [model_cfg], [[dataset_cfg]]
                try:
                    super().run(cur_model=cur_model, cur_model_abbr=cur_model_abbr)
                except Exception:
                    if self.model is None:
                        raise  # the model itself cannot be built: no dataset will fare better
                    get_logger().exception(f"{self.name} failed")
                cur_model, cur_model_abbr = self.model, abbr
        self.model_cfgs = [model for model, _ in wanted]
        self.dataset_cfgs = [datasets for _, datasets in wanted]
        missing = [path for path in self.get_output_paths() if not Path(path).is_file()]
        if missing:
            raise SystemExit("no predictions written:\n" + "\n".join(missing))


if __name__ == "__main__":
    from mmengine.config import Config

    LongContextInferTask(Config.fromfile(sys.argv[1])).run()
