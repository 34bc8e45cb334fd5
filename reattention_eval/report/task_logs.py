"""Why tasks failed, out of their logs."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from reattention_eval.errors import ReAttentionError
from reattention_eval.report.shown import visible

MARK = "error: "
_RAISED = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt|Warning)(: .*)?$")
_LONGEST = 1000
_END = 1 << 20  # bytes at the end of a log in which the reason is looked for


def said_line(where: str, error: BaseException) -> str:
    """An error in one line, as `said` finds it again; ours without its class."""
    kind = "" if isinstance(error, ReAttentionError) else f"{type(error).__name__}: "
    words = " ".join(f"{kind}{error}".split())
    return f"{MARK}{where}{words[:_LONGEST]}{' ...' if len(words) > _LONGEST else ''}"


def said(log: Path) -> list[str]:
    """The sentences with which a task itself said what went wrong, each once."""
    try:
        about = log.stat()
    except OSError:
        return []
    return list(_said(log, (about.st_size, about.st_mtime_ns)))


@lru_cache(maxsize=1 << 12)  # every dataset of a model that has no record asks the same logs
def _said(log: Path, state: tuple[int, int]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(line for line in _lines(log) if line.startswith(MARK)))


def infer_log(work_dir: Path, model: str, dataset: str) -> Path:
    """Where a task whose first dataset this is says what went wrong."""
    return work_dir / "logs" / "infer" / model / f"{dataset}.out"


def why_none(work_dir: Path, model: str, dataset: str) -> str:
    """What the tasks of a model with method said of a dataset that has no record, or of the model
    itself; empty where they said nothing."""
    logs = sorted(infer_log(work_dir, model, dataset).parent.glob("*.out"))
    lines = [line.removeprefix(MARK) for log in logs for line in said(log)]
    own = f"{model} on {dataset}: "
    here = [line.removeprefix(own) for line in lines if line.startswith(own)]
    of_all = [line for line in lines if not line.startswith(f"{model} on ")]
    return next(iter([*here, *of_all]), "")


def reasons(log: Path) -> list[str]:
    """Why the task of this log failed: what it said, else the last error raised, else the last
    line; empty where there is no log."""
    lines = _lines(log)
    raised = [line for line in lines if _RAISED.match(line)]
    return said(log) or [MARK + line for line in (raised or lines)[-1:]]


def said_errors(work_dir: Path) -> list[str]:
    """What the tasks of a run said of their failures, each once."""
    logs = sorted((work_dir / "logs").rglob("*.out"))
    return list(dict.fromkeys(line for log in logs for line in said(log)))


def _lines(log: Path) -> list[str]:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _END))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [visible(line.strip()) for line in text.splitlines() if line.strip()]
