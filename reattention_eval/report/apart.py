"""Which cells may stand in one row: those that were asked alike. What differs stands apart."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from reattention_eval.report.run import Cell

# what tasks of one benchmark must have in common before they are averaged
_COMMON = ("prompts", "scoring")
_LONGEST = 40


def apart(
    cells: Sequence[Cell], slot: Callable[[Cell], Hashable], common: Sequence[str] = _COMMON
) -> list[tuple[str, list[Cell]]]:
    """One row's cells, in groups that have no two cells of one slot, each with the words that tell
    it from the others; a single group without words where nothing clashes.

    Cells clash that share a slot (a task and length, say), and so do settings in `common`.
    """
    known = [cell for cell in cells if cell.manifest]
    names = [name for name in common if len({repr(_facts(c).get(name)) for c in known}) > 1]
    slots: dict[Hashable, list[Cell]] = {}
    for cell in known:
        slots.setdefault(slot(cell), []).append(cell)
    for own in slots.values():
        names += [name for name in differing([_facts(c) for c in own]) if name not in names]
    if _templates_differ(known) and "run" not in names:
        names.append("run")
    if not names:
        return [("", list(cells))]
    groups: dict[str, list[Cell]] = {}
    for cell in known:
        facts = _facts(cell)
        words = ", ".join(f"{name}={_short(facts.get(name))}" for name in names)
        groups.setdefault(words, []).append(cell)
    # a cell that was never run was asked as the first ones were
    next(iter(groups.values())).extend(cell for cell in cells if not cell.manifest)
    return list(groups.items())


def differing(facts: Sequence[dict[str, Any]]) -> list[str]:
    """The names under which not all say the same."""
    keys = dict.fromkeys(key for one in facts for key in one)
    return [key for key in keys if len({repr(one.get(key)) for one in facts}) > 1]


def prompts_of(cell: Cell) -> str:
    """The fingerprint of the cell's prompts; empty where no manifest says."""
    return str(cell.manifest.get("dataset", {}).get("fingerprint") or "")


def _facts(cell: Cell) -> dict[str, Any]:
    """What was asked, and of which run."""
    about = cell.manifest.get("dataset", {})
    return {
        **{key: value for key, value in about.items() if key not in ("abbr", "n", "fingerprint")},
        "prompts' fingerprint": prompts_of(cell)[:8],
        "run": cell.run,
    }


def _templates_differ(cells: Sequence[Cell]) -> bool:
    """Whether one run asked in a chat turn and another never did."""
    chat: dict[str, bool] = {}
    for cell in cells:
        asked = bool(cell.manifest.get("dataset", {}).get("chat_template"))
        chat[cell.run] = chat.get(cell.run, False) or asked
    return len(set(chat.values())) > 1


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
