"""What a reader of the tables has to know besides their figures, each in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reattention_eval.report.frame import Frame
from reattention_eval.report.measures import NEVER, selection_words
from reattention_eval.report.run import Cell

# of a manifest's environment: what changes an answer, and what several of it are called
_PROGRAMS = {
    "commit": "commits", "reattention-eval": "versions of reattention-eval",
    "torch": "versions of torch", "transformers": "versions of transformers",
}  # fmt: skip


def reading_notes(frame: Frame) -> list[str]:
    """All that apply."""
    cells = frame.cells
    return [*interval_note(frame), *cut_note(cells), *never_note(cells), *mixed_note(cells)]


def interval_note(frame: Frame) -> list[str]:
    """What brackets and bold type mean; nothing where there are none."""
    if not any(figure.interval for figure in frame.figures):
        return []
    return [
        "In brackets 95 % intervals: Wilson's for samples that are right or wrong, else the "
        "bootstrap's over samples; of averages, those that follow from their tasks'. Bold: the "
        "best of one model and the same prompts, with all that its interval does not tell from it."
    ]


def cut_note(cells: Sequence[Cell]) -> list[str]:
    """Says how many prompts lost their middle; nothing where none did."""
    cut = sum(1 for c in cells for r in c.records.values() if r.get("n_cut"))
    total = sum(len(c.records) for c in cells)
    return [f"{cut} of {total} prompts were longer than allowed and lost their middle."] * (cut > 0)


def never_note(cells: Sequence[Cell]) -> list[str]:
    """What the mark of cells in which no sample selected means; nothing where there is none."""
    if not any(selection_words([cell]) == NEVER for cell in cells):
        return []
    return [
        f'"{NEVER}": every prompt of the cell fitted into what the method attends to whole, so its '
        "figures are those of full attention in effect."
    ]


def mixed_note(cells: Sequence[Cell]) -> list[str]:
    """Says that not one program made all samples; nothing where one did."""
    found: dict[str, dict[str, None]] = {name: {} for name in _PROGRAMS}
    for cell in cells:
        for one in _environments(cell):
            versions = one.get("versions") or {}
            commit, *changed = str(one.get("commit") or "").split("+")
            own = {"commit": "+".join([commit[:7], *changed]), **versions}
            for name, kept in found.items():
                if own.get(name):
                    kept[str(own[name])] = None
    mixed = [
        f"{len(kept)} {words} ({', '.join(sorted(kept))})"
        for (name, words), kept in zip(_PROGRAMS.items(), found.values(), strict=True)
        if len(kept) > 1
    ]
    told = "Not one program made all samples: {}; the manifest says which made which."
    return [told.format(", ".join(mixed))] if mixed else []


def _environments(cell: Cell) -> list[dict[str, Any]]:
    """Of the processes that ran samples of the cell."""
    found = cell.manifest.get("environment")
    found = found if isinstance(found, list) else [found]
    return [one for one in found if isinstance(one, dict) and one.get("samples_to_run", 1)]
