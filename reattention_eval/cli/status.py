"""`reattention-eval status`: how far a run is, from outside."""

from __future__ import annotations

import time
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from reattention_eval.cli.console import out
from reattention_eval.machine_memory import GIB
from reattention_eval.report.pace import clock
from reattention_eval.report.progress import (
    DONE,
    FAILED,
    RUNNING,
    STOPPED,
    WAITING,
    TaskProgress,
    run_progress,
)

STYLES = {DONE: "green", RUNNING: "cyan", FAILED: "red", STOPPED: "yellow", WAITING: "dim"}


def show_status(work_dir: Path, every: float | None) -> None:
    """Once; with `every`, again after so many seconds for as long as anything runs: in a terminal
    in the same place, else a line a task that runs."""
    tasks = run_progress(work_dir)
    if every is None or not out.is_terminal:
        out.print(_page(tasks))
    if every is None:
        return
    if out.is_terminal:
        with Live(_page(tasks), console=out, auto_refresh=False) as live:
            while _goes_on(tasks):
                time.sleep(every)
                tasks = run_progress(work_dir)
                live.update(_page(tasks), refresh=True)
        return
    while _goes_on(tasks):
        time.sleep(every)
        tasks = run_progress(work_dir)
        for task in tasks:
            if task.state == RUNNING:
                line = f"{clock(time.time())} {task.model} on {task.dataset}: {task.pace.words()}"
                out.print(line, soft_wrap=True, markup=False)
    out.print(_page(tasks))


def _goes_on(tasks: list[TaskProgress]) -> bool:
    return any(task.state == RUNNING for task in tasks)


def _page(tasks: list[TaskProgress]) -> Group:
    """A table a model with method, whose names are long."""
    models = dict.fromkeys(task.model for task in tasks)
    parts: list[Table | Text] = [
        _table(model, [task for task in tasks if task.model == model]) for model in models
    ]
    parts.append(Text(_sentence(tasks)))
    parts += [Text(f"{task.model} on {task.dataset}: {task.where}") for task in tasks if task.where]
    return Group(*parts)


def _table(model: str, tasks: list[TaskProgress]) -> Table:
    table = Table(
        title=Text(model, style="bold"), title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    gpu = any(task.pace.gpu for task in tasks)
    columns = ("task", "state", "samples", "tokens/s", "score", "ends",
               "GPU memory" if gpu else "memory")  # fmt: skip
    rows = [_row(task) for task in tasks]
    shown = [i for i, column in enumerate(columns) if column != "ends" or any(r[i] for r in rows)]
    for i in shown:
        table.add_column(
            columns[i], justify="right" if i > 1 else "left", overflow="fold", no_wrap=i > 0
        )
    for row in rows:
        table.add_row(*(row[i] for i in shown))
    return table


def _row(task: TaskProgress) -> list[Text]:
    pace = task.pace
    samples = f"{pace.done:,} / {'?' if pace.total is None else format(pace.total, ',')}"
    if pace.failed:
        samples += f" ({pace.failed:,} failed)"
    speed = pace.tokens_per_second
    end = pace.ends() if task.state == RUNNING else None
    memory = f"{pace.peak_bytes / GIB:.1f} GiB" if pace.peak_bytes else ""
    words = [
        task.dataset, task.state, samples, "" if speed is None else f"{speed:,.0f}",
        pace.score_words, "" if end is None else clock(end), memory,
    ]  # fmt: skip
    return [Text(word, style=STYLES[task.state] if i == 1 else "") for i, word in enumerate(words)]


def _sentence(tasks: list[TaskProgress]) -> str:
    counts = [f"{n} {state}" for state in STYLES if (n := sum(t.state == state for t in tasks))]
    done = sum(task.pace.done for task in tasks)
    ends = [end for task in tasks if task.state == RUNNING and (end := task.pace.ends())]
    last = f"; what runs now ends {clock(max(ends))}" if ends else ""
    return f"{len(tasks)} tasks: {', '.join(counts) or 'none'}; {done:,} samples done{last}"
