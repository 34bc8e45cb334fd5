"""What is missing, failed, or was not what it claims to be, each in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from reattention_eval.report.apart import prompts_of
from reattention_eval.report.labels import method_name, model_name
from reattention_eval.report.measures import asked_count, figures_of, no_numbers
from reattention_eval.report.predictions import NO_RECORD, REMAKE
from reattention_eval.report.records import failed
from reattention_eval.report.run import Cell
from reattention_eval.report.stale import stale
from reattention_eval.report.told import REMAKE_ALL, untold


def find_problems(cells: Sequence[Cell]) -> list[str]:
    """One sentence for each cell that cannot be trusted; empty when the run is whole."""
    if not cells:
        return ["The run has no model or no dataset: nothing was evaluated."]
    return [*(problem for cell in cells for problem in _of_cell(cell)), *_unlike(cells)]


def _unlike(cells: Sequence[Cell]) -> list[str]:
    """Methods that were asked for other prompts under one name: nothing compares them."""
    asked: dict[tuple[str, str], dict[str, set[str]]] = {}
    for cell in cells:
        if prompts := prompts_of(cell):
            own = asked.setdefault((model_name(cell), cell.dataset), {})
            own.setdefault(cell.model, set()).add(prompts)
    problems = []
    for (model, dataset), by_method in asked.items():
        if any(one.isdisjoint(other) for one in by_method.values() for other in by_method.values()):
            named: dict[str, list[str]] = {}
            for method, found in by_method.items():
                shown = ", ".join(key[:8] for key in sorted(found))
                named.setdefault(shown, []).append(method)
            told = "; ".join(f"{key}: {_several(names)}" for key, names in named.items())
            problems.append(
                f"{model} on {dataset}: its methods were asked other prompts ({told}), so no "
                "figure of one is compared with the others'. Run all of them on the same data."
            )
    return problems


def _several(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _of_cell(cell: Cell) -> list[str]:
    where = f"{cell.model} on {cell.dataset}"
    problems = []
    n, reasons = asked_count(cell), failed(cell.records)
    if reasons:
        index, reason = next(iter(reasons.items()))
        problems.append(
            f"{where}: {len(reasons)} of {n} samples failed (sample {index}: {reason})."
        )
    elif cell.predicted.wrong:
        problems.append(f"{where}: its predictions file {cell.predicted.wrong}; {REMAKE}")
    elif not cell.has_predictions and cell.records:
        problems.append(
            f"{where}: unfinished, {len(cell.records)} of {n} samples are done; run the "
            "same command with `-r` to go on."
        )
    elif not cell.has_predictions:
        why = cell.reason or "the inference task failed or never ran."
        problems.append(f"{where}: no predictions, {why}")
    if cell.has_predictions:
        if not cell.result:
            problems.append(
                f"{where}: predicted and not scored: scores are made when all predictions of a run "
                "are there; `opencompass CONFIG -m eval -r` scores those that are, or its log says "
                "why not."
            )
        elif "error" in cell.result:
            problems.append(f"{where}: the evaluator reports an error: {cell.result['error']}.")
        elif not figures_of(cell):
            problems.append(
                f"{where}: its result holds no figure; delete it and score again "
                "(`opencompass CONFIG -m eval -r`)."
            )
        problems += [
            f"{where}: the figure {name} is not a number (NaN); look at the samples' records."
            for name in no_numbers(cell)
        ]
        problems += _unrecorded(cell, where)
    if told := stale(cell):
        problems.append(f"{where}: {told}")
    problems += _untold(cell, where)
    problems += _silent(cell, where)
    return problems


def _is_ours(cell: Cell) -> bool:
    """Other models' samples leave neither records nor a manifest."""
    return bool(cell.records) or method_name(cell) is not None


def _untold(cell: Cell, where: str) -> list[str]:
    """Samples of which nothing says what was asked: they may stand among others' by mistake."""
    why = cell.untold or ("" if cell.manifest else untold({}, cell.model, cell.dataset))
    if not why or not (cell.records or cell.has_predictions) or not _is_ours(cell):
        return []
    return [f"{where}: {why}, {REMAKE_ALL}"]


def _unrecorded(cell: Cell, where: str) -> list[str]:
    """Predictions of which it cannot be told any more how they were made."""
    lost = asked_count(cell) - len(cell.records)
    if lost <= 0 or not _is_ours(cell):
        return []
    return [f"{where}: {NO_RECORD.format(lost, asked_count(cell))}"]


def _silent(cell: Cell, where: str) -> list[str]:
    """A method that left prompts beyond its reach whole was full attention in disguise."""
    beyond = [r for r in cell.records.values() if r.get("must_select") and not r.get("error")]
    silent = [r for r in beyond if not r.get("layer_steps_selected")]
    if not silent:
        return []
    method = cell.manifest.get("method", {})
    return [
        f"{where}: {len(silent)} of {len(beyond)} prompts are longer than "
        f"{method.get('name', 'the method')} may attend to (budget {method.get('budget')} tokens), "
        "yet no layer selected anything: this was full attention."
    ]
