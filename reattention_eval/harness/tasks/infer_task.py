"""The inference task: one model, many datasets, loaded once."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opencompass.tasks import openicl_infer
from opencompass.utils import (
    build_model_from_cfg,
    dataset_abbr_from_cfg,
    get_infer_output_path,
    get_logger,
    model_abbr_from_cfg,
)

from reattention_eval.errors import ConfigError, RunFolderError
from reattention_eval.harness.call_records import CallRecords
from reattention_eval.harness.done import is_done, set_aside
from reattention_eval.harness.inferencer import LongContextGenInferencer
from reattention_eval.harness.manifest import write_dataset_manifest
from reattention_eval.harness.memory_check import check_memory
from reattention_eval.harness.model import LongContextLM
from reattention_eval.harness.only_writer import LOCK_SECONDS, Busy, only_writer
from reattention_eval.harness.own_log import OwnLog
from reattention_eval.harness.record_file import records_path
from reattention_eval.harness.run_folder import UNFINISHED, disk_of
from reattention_eval.harness.task_script import arguments, run_script
from reattention_eval.harness.time_limit import VARIABLE, is_over, run_ends
from reattention_eval.report.records import failed, read_records
from reattention_eval.report.task_logs import MARK, said_line

FOR_EVER = 1e9  # a holder that dies lets go
# OpenMP threads that spin while they wait take a busy machine's cores from those they wait for:
# prefill on two cores beside two other processes was ten times slower so
PATIENT = "OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} "


class LongContextInferTask(OwnLog, openicl_infer.OpenICLInferTask):
    """A dataset that cannot be built or run is reported and the next one is taken.

    Before a model is loaded its prompts are held against the memory there is, and no two processes
    write the same predictions. A task that is done takes over what other tasks of its model have
    not begun (`others` of its configuration, see `WorkerPartitioner`); they go on without it.
    Nothing is begun after the time that its configuration's `until` says, or REATTENTION_MINUTES
    where it says none; what is then unfinished is no error here.

    Raises:
        SystemExit: at the end, with status 1, if any predictions file is missing for another
            reason.
        ConfigError, CheckpointError: the model cannot be loaded, or has no room for the prompts.
        RunFolderError: the run's folder takes no more, so that no dataset would fare better.
    """

    work_dir: str

    def get_command(self, cfg_path: str, template: str) -> str:
        """OpenCompass's command, with this file as the script."""
        ranks = int(self.model_cfgs[0].get("tensor_parallel") or 1)
        if ranks > 1:
            launch = f"{sys.executable} -m torch.distributed.run --standalone --nproc-per-node"
            script = f"{__file__} {arguments(cfg_path)}"
            return PATIENT + template.format(task_cmd=f"{launch} {ranks} {script}")
        command: str = super().get_command(arguments(cfg_path), template)
        return PATIENT + command.replace(openicl_infer.__file__, __file__)

    def run(self, cur_model: Any = None, cur_model_abbr: str | None = None) -> None:
        """Run every dataset of every model."""
        wanted: list[tuple[Any, Any]] = [
            *zip(self.cfg["models"], self.cfg["datasets"], strict=True)
        ]
        self._until = self.cfg["until"] if "until" in self.cfg else run_ends()
        self._unfinished: set[Path] = set()
        if int(os.environ.get("RANK", "0")):  # of the processes that share a model
            for model_cfg, _ in wanted:
                build_model_from_cfg(model_cfg).follow()
            return
        for model_cfg, dataset_cfgs in wanted:
            abbr = model_abbr_from_cfg(model_cfg)
            self.model = cur_model if cur_model_abbr == abbr else None
            others = self.cfg.get("others") or []
            if self.model is None:
                dataset_cfgs = those_that_fit(model_cfg, dataset_cfgs)
                others = [other for other in others if misfit(model_cfg, other) is None]
            patience = 0 if others else LOCK_SECONDS
            taken = [d for d in dataset_cfgs if not self._run_one(model_cfg, d, patience)]
            if others:
                self._help(model_cfg, others, taken)
            cur_model, cur_model_abbr = self.model, abbr
            if int(model_cfg.get("tensor_parallel") or 1) > 1:
                # the other processes wait for its next prompt, also where there was none at all
                (build_model_from_cfg(model_cfg) if cur_model is None else cur_model).close()
                cur_model = cur_model_abbr = None
        self.model_cfgs = [model for model, _ in wanted]
        self.dataset_cfgs = [datasets for _, datasets in wanted]
        missing = [path for path in self.get_output_paths() if not is_done(Path(path))]
        if unfinished := [path for path in missing if Path(path) in self._unfinished]:
            get_logger().warning(
                f"{VARIABLE} are over: {len(unfinished)} datasets are unfinished; start this run "
                "again with -r to go on."
            )
        missing = [path for path in missing if path not in unfinished]
        if missing:
            for model_cfg, dataset_cfgs in wanted:
                for dataset_cfg in dataset_cfgs:
                    self._say_failed(model_cfg, dataset_cfg)
            raise SystemExit("no predictions written:\n" + "\n".join(missing))

    def _help(self, model_cfg: Any, others: Sequence[Any], taken: Sequence[Any]) -> None:
        """Run what other tasks have not begun; then wait for what they took over of one's own."""
        for other in others:
            if not self._records(model_cfg, other).exists():
                self._run_one(model_cfg, other, 0)
        for dataset_cfg in taken:
            name = dataset_abbr_from_cfg(dataset_cfg)
            get_logger().info(f"{name}: waiting for the task that took it over")
            self._run_one(model_cfg, dataset_cfg, FOR_EVER)

    def _run_one(self, model_cfg: Any, dataset_cfg: Any, patience: float) -> bool:
        """False where another process held the dataset for longer than `patience` seconds."""
        self.model_cfgs, self.dataset_cfgs = [model_cfg], [[dataset_cfg]]
        try:
            with only_writer(self._records(model_cfg, dataset_cfg), patience, get_logger()):
                predictions = self._predictions(model_cfg, dataset_cfg)
                set_aside(predictions, get_logger())
                if not predictions.is_file() and not is_over(self._until):
                    super().run(cur_model=self.model, cur_model_abbr=model_abbr_from_cfg(model_cfg))
                if is_over(self._until) and self._only_unfinished(model_cfg, dataset_cfg):
                    self._unfinished.add(predictions)
        except Busy as error:
            if patience:
                self._say(model_cfg, dataset_cfg, error)
            return False
        except RunFolderError:
            raise
        except Exception as error:
            if self.model is None:
                raise  # the model itself cannot be built: no dataset will fare better
            self._say(model_cfg, dataset_cfg, error)
        return True

    def _only_unfinished(self, model_cfg: Any, dataset_cfg: Any) -> bool:
        """No predictions, yet no sample that failed."""
        records = read_records(self._records(model_cfg, dataset_cfg))
        return not self._predictions(model_cfg, dataset_cfg).is_file() and not failed(records)

    def _say(self, model_cfg: Any, dataset_cfg: Any, error: BaseException) -> None:
        """The reason in one line, which runners and the summarizer look for, behind its trace."""
        get_logger().exception(f"{self.name} failed")
        where = f"{model_abbr_from_cfg(model_cfg)} on {dataset_abbr_from_cfg(dataset_cfg)}: "
        print(said_line(where, error), file=sys.stderr, flush=True)

    def _say_failed(self, model_cfg: Any, dataset_cfg: Any) -> None:
        """The same for samples that failed."""
        if self._predictions(model_cfg, dataset_cfg).is_file():
            return
        reasons = failed(read_records(self._records(model_cfg, dataset_cfg)))
        for index, reason in list(reasons.items())[:1]:
            where = f"{model_abbr_from_cfg(model_cfg)} on {dataset_abbr_from_cfg(dataset_cfg)}"
            line = f"{MARK}{where}: {len(reasons)} samples failed (sample {index}: {reason})"
            print(" ".join(line.split()), file=sys.stderr, flush=True)

    def _inference(self) -> None:
        """OpenCompass's, with records of what its own inferencers ask of our model.

        Where a text failed the predictions are withheld, so that the dataset shows as missing.
        """
        if not isinstance(self.model, LongContextLM):
            self._inference_apart()
            return
        self.model.until = self._until
        kind = str(self.infer_cfg["inferencer"]["type"]).rsplit(".", 1)[-1].removesuffix("'>")
        if kind == LongContextGenInferencer.__name__:  # it keeps its own
            super()._inference()
            return
        path = self._records(self.model_cfg, self.dataset_cfg)
        records = CallRecords(path, self.model.fingerprint(), log=get_logger())
        manifest = path.with_suffix(".manifest.json")
        write_dataset_manifest(manifest, self.model, path.stem, self.dataset.test, kind)
        self.model.call_records = records
        try:
            self._inference_apart(records)
        finally:
            self.model.call_records = None

    def _inference_apart(self, records: CallRecords | None = None) -> None:
        """OpenCompass's inferencers write their predictions bit by bit, and what a kill leaves of
        them would count as done: they are written elsewhere, and put in their place when whole.

        With `records`, which answer again what was answered, no inferencer goes on with its own.
        """
        whole, work_dir = self._predictions(self.model_cfg, self.dataset_cfg), self.work_dir
        self.work_dir = str(Path(work_dir) / UNFINISHED)
        try:
            made = self._predictions(self.model_cfg, self.dataset_cfg)
            if records is not None:
                made.with_name(f"tmp_{made.stem}.jsonl").unlink(missing_ok=True)
            with disk_of(made):
                super()._inference()
                # an inferencer may be told to write none
                if made.is_file() and not (records and records.failures()):
                    whole.parent.mkdir(parents=True, exist_ok=True)
                    made.replace(whole)
        finally:
            self.work_dir = work_dir

    def _predictions(self, model_cfg: Any, dataset_cfg: Any) -> Path:
        folder = str(Path(self.work_dir) / self.output_subdir)
        return Path(get_infer_output_path(model_cfg, dataset_cfg, folder))

    def _records(self, model_cfg: Any, dataset_cfg: Any) -> Path:
        predictions = self._predictions(model_cfg, dataset_cfg)
        return records_path(predictions.parent, predictions.name)


def misfit(model_cfg: Any, dataset_cfg: Any) -> ConfigError | None:
    """Why the dataset's prompts do not fit beside the model; None if they do."""
    try:
        check_memory(model_cfg, [dataset_cfg])
    except ConfigError as error:
        return error
    return None


def those_that_fit(model_cfg: Any, dataset_cfgs: Sequence[Any]) -> list[Any]:
    """The datasets whose prompts fit beside the model; of the others it is said why not.

    Raises:
        ConfigError: not one of them fits.
    """
    answers = [misfit(model_cfg, dataset_cfg) for dataset_cfg in dataset_cfgs]
    fit = [d for d, reason in zip(dataset_cfgs, answers, strict=True) if reason is None]
    reasons = [(d, r) for d, r in zip(dataset_cfgs, answers, strict=True) if r is not None]
    if reasons and not fit:
        raise reasons[-1][1]
    for dataset_cfg, reason in reasons:
        where = f"{model_abbr_from_cfg(model_cfg)} on {dataset_abbr_from_cfg(dataset_cfg)}: "
        print(said_line(where, reason), file=sys.stderr, flush=True)
    return fit


if __name__ == "__main__":
    run_script(LongContextInferTask, sys.argv[1:])
