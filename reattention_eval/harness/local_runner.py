"""Tasks on this machine, and why one failed, where the user is looking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opencompass.runners import LocalRunner
from opencompass.utils import get_logger

from reattention_eval.harness.run_folder import refusal
from reattention_eval.report.task_logs import MARK, reasons

_KILLED = (-9, 128 + 9)  # the shell that starts the task tells the second


class SayingLocalRunner(LocalRunner):
    """OpenCompass's LocalRunner names only the log of a task that failed; this one reads it out."""

    def _launch(self, task: Any, gpu_ids: Any, index: int) -> tuple[str, int]:
        name, status = super()._launch(task, gpu_ids, index)
        # a log on the same disk may have taken no reason
        if status and (refused := refusal(Path(task.work_dir))):
            get_logger().error(f"{MARK}{refused}")
            return name, status
        if status in _KILLED:
            get_logger().error(
                "error: the task was killed (signal 9): perhaps the machine had no memory left"
            )
        elif status:
            for reason in reasons(Path(task.get_log_path(file_extension="out"))):
                get_logger().error(reason)
        return name, status
