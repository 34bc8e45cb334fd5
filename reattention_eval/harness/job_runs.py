"""Jobs in this process, one after another, and shared with other processes that run the same."""

from __future__ import annotations

import gc
import json
import logging
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from reattention_eval.benchmarks import find_benchmark
from reattention_eval.benchmarks.base import Answer, Row
from reattention_eval.errors import RunFolderError
from reattention_eval.harness.compose import Job
from reattention_eval.harness.done import is_done
from reattention_eval.harness.kept_model import KeptModel
from reattention_eval.harness.only_writer import LOCK_SECONDS, Busy, only_writer
from reattention_eval.harness.prompt_files import kept_rows
from reattention_eval.harness.prompt_runner import PromptRunner
from reattention_eval.harness.record_file import records_path
from reattention_eval.harness.run_folder import write_whole
from reattention_eval.harness.sample_run import SampleRun, is_crowded_out
from reattention_eval.harness.samples import Sample
from reattention_eval.harness.time_limit import is_over, run_ends
from reattention_eval.machine_memory import held_by_others
from reattention_eval.report.records import read_records
from reattention_eval.report.task_logs import infer_log, said_line
from reattention_eval.whole_file import write_whole_text

# others hold less of a GPU, at so many looks of so many seconds; longer than that nobody waits
_LESS, _LOOK, _PATIENCE = 0.9, 5.0, 600.0
# what a model's entry says to OpenCompass, or to the list of jobs
_NOT_RUNNER = {"abbr", "method", "path", "run_cfg", "batch_size", "max_out_len", "type"}


class JobRuns:
    """Runs jobs; the model stays loaded, and the method attached, for the next that asks for it.

    A job that fails is reported, and counted in `failed`; a model with method that does not load
    or attach is tried once. Processes that share a run try what others had left a GPU no memory
    for once more at the end, and again as more comes free. Nothing is begun once
    REATTENTION_MINUTES are over, nor once a CUDA error has left this process without its GPU: all
    jobs would fail.

    Args:
        prompts: folder that keeps prompts (`prompt_files.kept_rows`); None keeps none.
    """

    def __init__(self, work_dir: Path, prompts: Path | None = None) -> None:
        self.work_dir = work_dir
        self.prompts = prompts
        self.until = run_ends()
        self.failed = 0
        self._began = time.time()
        self._model = KeptModel()
        self._runner: PromptRunner | None = None
        self._abbr = ""
        self._broken: set[str] = set()
        self._crowded_out: list[Job] = []
        self._shares = False
        self._gpu_lost = False

    def run_all(self, jobs: Sequence[Job]) -> None:
        """Every job; one whose files another process writes is waited for, and then fails.

        Raises:
            RunFolderError: `work_dir` takes no more files.
        """
        for job in jobs:
            self._try(job, LOCK_SECONDS)

    def share_all(self, jobs: Sequence[Job]) -> None:
        """The jobs, in their order, that no other process has done or does now.

        Ends when what is left is all in the hands of others. What one of them tried in vain since
        this process began is not tried again.

        Raises:
            RunFolderError: `work_dir` takes no more files.
        """
        self._shares = True
        left = list(jobs)
        while left:
            taken = [self._done(job) or self._try(job, 0) for job in left]
            if not any(taken):
                break
            left = [job for job, mine in zip(left, taken, strict=True) if not mine]
        self._once_more()

    def _once_more(self) -> None:
        """What this process was crowded out of, now, and each time that others hold less."""
        held, since = math.inf, time.monotonic()
        while self._crowded_out and not self._ends():
            if (now := held_by_others()) < _LESS * held:
                held, since = now, time.monotonic()
                jobs, self._crowded_out = self._crowded_out, []
                logging.info(f"{len(jobs)} jobs that had no memory left on the GPU, once more")
                for job in jobs:
                    if not self._ends():  # else it stays what it is, failed
                        self.failed -= 1
                        self._try(job, LOCK_SECONDS)
            elif time.monotonic() - since > _PATIENCE:
                return
            else:
                time.sleep(_LOOK)

    def close(self) -> None:
        """The model is as it was, and its memory free."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None
            gc.collect()
            if torch.cuda.is_available() and not self._gpu_lost:
                torch.cuda.empty_cache()  # other processes may use the same GPU

    def _ends(self) -> bool:
        """Whether nothing is begun any more."""
        return self._gpu_lost or is_over(self.until)

    def _try(self, job: Job, patience: float) -> bool:
        """False: another process has it."""
        if self._ends():
            return True
        before = self.failed
        try:
            self._run(job, patience)
        except RunFolderError:
            raise
        except Busy:
            if patience:
                self.failed += 1
                logging.exception(f"{'/'.join(job.names)} failed")
            return False
        except Exception as error:
            self.failed += 1
            logging.exception(f"{'/'.join(job.names)} failed")
            self._say(job, f"{' on '.join(job.names)}: ", error)
        if self.failed > before:
            self._gpu_lost = _is_gpu_lost()
        return True

    def _run(self, job: Job, patience: float) -> None:
        path = self._path(job, "predictions")
        records = records_path(path.parent, path.name)
        if job.names[0] in self._broken:
            return
        log = logging.getLogger(__name__)
        with only_writer(records, patience, log):
            if self._done(job, log) and not patience:
                return
            runner = self._runner_of(job)
            if runner is None:
                return
            rows = kept_rows(job, self.prompts)
            asked, benchmark = job.asked, find_benchmark(job.benchmark)
            run = SampleRun(
                runner,
                asked.max_out_len,
                stop_words=list(asked.stop_words),
                max_prompt_tokens=asked.max_prompt_tokens,
                facts={"chat_template": asked.chat_template, **asked.facts},
                until=self.until,
                crowded_ends=self._shares,
            )
            samples = [sample_of(row, asked.chat_template) for row in rows]
            if not run(samples, [row["reference"] for row in rows], path):
                self.failed += 1
                if any(map(is_crowded_out, read_records(records).values())):
                    self._crowded_out.append(job)
                return
            saved = json.loads(path.read_text(encoding="ascii"))
            answers = [_answer(saved[str(i)]) for i in range(len(rows))]
            result = benchmark.result(asked.task, rows, answers, asked.scoring)
            write_whole(self._path(job, "results"), result)

    def _runner_of(self, job: Job) -> PromptRunner | None:
        """None: it did not load or attach, which is reported the first time."""
        model = job.model
        if self._runner is not None and self._abbr == job.names[0]:
            return self._runner
        self.close()
        settings = {key: value for key, value in model.items() if key not in _NOT_RUNNER}
        try:
            self._runner = PromptRunner(
                str(model["path"]), model["method"], loader=self._model, **settings
            )
        except Exception as error:
            logging.exception(f"{model['abbr']} cannot run")
            self._broken.add(job.names[0])
            self.failed += 1
            self._say(job, "", error)
        self._abbr = job.names[0]
        return self._runner

    def _say(self, job: Job, where: str, error: Exception) -> None:
        """The reason, where a task of OpenCompass leaves it for reports."""
        with suppress(OSError):
            log = infer_log(self.work_dir, *job.names)
            log.parent.mkdir(parents=True, exist_ok=True)
            write_whole_text(log, said_line(where, error) + "\n")

    def _path(self, job: Job, kind: str) -> Path:
        model, dataset = job.names
        return self.work_dir / kind / model / f"{dataset}.json"

    def _done(self, job: Job, log: logging.Logger | None = None) -> bool:
        """Whether it is answered and scored, or failed for somebody since this process began."""
        path = self._path(job, "predictions")
        if is_done(self._path(job, "results"), log) and is_done(path, log):
            return True
        records = read_records(records_path(path.parent, path.name)).values()
        return any(r.get("error") and r.get("finished", 0) >= self._began for r in records)


def _is_gpu_lost() -> bool:
    """Whether every CUDA call of this process fails from now on, as after an illegal access."""
    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        logging.error(f"this process has lost its GPU ({error}); start the same command again")
        return True
    return False


def sample_of(row: Row, chat_template: bool) -> Sample:
    """What is asked of a runner for a benchmark's row."""
    return Sample(
        prompt=row["prompt"],
        answer_prefix=row.get("answer_prefix") or "",
        answer=row.get("continuation"),
        chat_template=chat_template,
        system=row.get("system") or None,
        question=row.get("question"),
    )


def _answer(entry: dict[str, Any]) -> Answer:
    return Answer(
        entry["prediction"], entry["n_tokens"], entry["n_cut"], answer_nll=entry["answer_nll"]
    )
