"""`reattention-eval compare`: two runs side by side on a terminal, or as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from reattention_eval.cli.console import err, out
from reattention_eval.json_text import finite
from reattention_eval.report.compare import Changed, Comparison, compare_runs
from reattention_eval.report.compare import Task as Compared
from reattention_eval.report.paired import Difference
from reattention_eval.report.shown import one_line

ANSWER, REFERENCE = 300, 160  # characters of each
_SMALLEST_P = 0.0001


def show_comparison(
    runs: tuple[Path, Path], words: tuple[str | None, str | None], samples: int, file: Path | None
) -> bool:
    """False where something of the runs could not be compared, which is said."""
    found = compare_runs(*runs, *words)
    for title in dict.fromkeys((task.a, task.b) for task in found.tasks):
        own = [task for task in found.tasks if (task.a, task.b) == title]
        _say(f"A: {title[0]}\nB: {title[1]}")
        out.print(_table(own))
        for task in own:
            for note in task.notes:
                _say(f"{task.dataset}: {note}.")
    _say(
        "B - A with its 95 % interval over paired samples; p is McNemar's exact test "
        "of right and wrong answers. No correction for the number of rows."
    )
    for task in found.tasks:
        _show_changed(task, samples)
    if file is not None:
        file.write_text(json.dumps(finite(_plain(found)), indent=1) + "\n", encoding="ascii")
        _say(str(file.resolve()))
    for where, why in (*found.refused, *found.alone):
        err.print(f"not compared: {where}: {why}", style="red", markup=False, soft_wrap=True)
    return not found.refused and not found.alone


def _table(tasks: list[Compared]) -> Table:
    table = Table()
    for i, column in enumerate(
        ("task", "figure", "n", "A", "B", "B - A [95 %]", "B better / worse / same", "p")
    ):
        table.add_column(column, justify="right" if i > 1 else "left", overflow="fold")
    for task in tasks:
        for i, one in enumerate(task.differences):
            table.add_row(
                "" if i else task.dataset, one.metric, f"{one.n:,}", _figure(one, one.a),
                _figure(one, one.b), _difference(one),
                f"{one.better:,} / {one.worse:,} / {one.same:,}", _p(one.p),
            )  # fmt: skip
    return table


def _show_changed(task: Compared, samples: int) -> None:
    if not samples or not task.changed:
        return
    first = task.differences[0]
    shown = task.changed[:samples]
    _say(
        f"\n{task.dataset}: {len(task.changed):,} of {first.n:,} answers changed; losses first, "
        f"{len(shown)} shown"
    )
    table = Table(show_lines=True)
    for column in ("sample", first.metric, "reference", "A", "B"):
        table.add_column(column, overflow="fold", justify="left")
    for one in shown:
        figures = [row.scores.get(first.metric) for row in (one.a, one.b)]
        # text of others is no markup
        table.add_row(*map(_text, (
            _where(one), " -> ".join("-" if v is None else _figure(first, v) for v in figures),
            one_line(_reference(one.a.reference), REFERENCE), one_line(one.a.prediction, ANSWER),
            one_line(one.b.prediction, ANSWER),
        )))  # fmt: skip
    out.print(table)


def _text(words: str) -> Any:
    from rich.text import Text

    return Text(words)


def _where(one: Changed) -> str:
    facts = [f"{name} {one.a.facts[name]:g}" for name in ("depth",) if name in one.a.facts]
    return ", ".join([str(one.a.index), *facts])


def _reference(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _figure(one: Difference, value: float) -> str:
    return f"{value:.{_digits(one)}f}"


def _digits(one: Difference) -> int:
    return 3 if "nll" in one.metric else 1


def _difference(one: Difference) -> str:
    digits = _digits(one)
    words = f"{one.mean:+.{digits}f}"
    if one.low is None or one.high is None:
        return words
    return f"{words} \\[{one.low:+.{digits}f}, {one.high:+.{digits}f}]"


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return f"<{_SMALLEST_P:g}" if value < _SMALLEST_P else f"{value:.2g}"


def _plain(found: Comparison) -> dict[str, Any]:
    """Everything, as JSON can hold it."""
    return {
        "tasks": [
            {
                "dataset": task.dataset,
                "a": task.a,
                "b": task.b,
                "notes": task.notes,
                "differences": [{**asdict(d), "difference": d.mean} for d in task.differences],
                "changed": [
                    {
                        "index": one.a.index,
                        "reference": one.a.reference,
                        "scores": [dict(one.a.scores), dict(one.b.scores)],
                        "answers": [one.a.prediction, one.b.prediction],
                    }
                    for one in task.changed
                ],
            }
            for task in found.tasks
        ],
        "not_compared": [
            {"where": where, "why": why} for where, why in (*found.refused, *found.alone)
        ],
    }


def _say(line: str) -> None:
    out.print(line, soft_wrap=True, markup=False)
