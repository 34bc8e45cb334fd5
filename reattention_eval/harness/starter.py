"""A task ends with the process that started it: nothing goes on unseen behind a run that was
killed."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable

from reattention_eval.processes import born, lives
from reattention_eval.report.task_logs import MARK

EVERY = 1.0  # seconds
ENDED = 128 + 15  # as a shell tells of SIGTERM


def this_process() -> str:
    """Host, number and birth of this process, as one word for a command line."""
    return f"{socket.gethostname()}:{os.getpid()}:{born(os.getpid())}"


def end_with(starter: str) -> None:
    """From now on end this process soon after the one that `this_process` named has ended.

    On another machine (a SLURM job's) nothing can be known of it, and nothing is done. A process
    that torchrun started ends with torchrun as well.
    """
    watched: list[Callable[[], bool]] = []
    host, pid, when = starter.rsplit(":", 2)
    if host == socket.gethostname():
        watched.append(lambda: lives(int(pid), when))
    if "TORCHELASTIC_RUN_ID" in os.environ:
        launcher = os.getppid()
        watched.append(lambda: os.getppid() == launcher)
    if watched:
        threading.Thread(target=_watch, args=(watched,), daemon=True).start()


def _watch(watched: list[Callable[[], bool]]) -> None:
    while all(alive() for alive in watched):
        time.sleep(EVERY)
    words = f"{MARK}the process that started this task has ended, and so it ends; go on with -r\n"
    try:
        os.write(2, words.encode())
    finally:
        os._exit(ENDED)  # samples are whole on disk at any moment
