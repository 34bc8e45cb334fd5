"""What the files of the tasks do when OpenCompass starts them as scripts."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from reattention_eval.errors import ReAttentionError
from reattention_eval.harness.starter import end_with, this_process
from reattention_eval.report.task_logs import said_line

# what the caller sees of an error that no second try can cure
MISUSED = 2


def arguments(cfg_path: str) -> str:
    """The words behind the script in its command."""
    return f"{cfg_path} {this_process()}"


def run_script(task: Callable[[Any], Any], words: Sequence[str]) -> None:
    """Run the task of a configuration; the reason why it cannot is the last line of its log.

    Raises:
        SystemExit: it failed: MISUSED for an error of ours, else 1, or what the task says.
    """
    from mmengine.config import Config

    if len(words) > 1:
        end_with(words[1])
    try:
        task(Config.fromfile(words[0])).run()
    except Exception as error:
        ours = isinstance(error, ReAttentionError)
        with suppress(OSError):  # a log on a full disk
            if not ours:
                traceback.print_exc()
            print(said_line("", error), file=sys.stderr, flush=True)
        raise SystemExit(MISUSED if ours else 1) from None
