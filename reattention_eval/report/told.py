"""What is told of samples by their manifest, and by the names of their folder and file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from reattention_eval.methods import list_methods

REMAKE_ALL = (
    "so nothing says what was asked and what answered; delete manifest, predictions and result and "
    "run again with `-r`, which takes over what records hold."
)


class Named(NamedTuple):
    """What an abbreviation of `harness.compose` says where no manifest was written."""

    model: str
    method: str
    words: str


@cache
def named(abbr: str) -> Named | None:
    """None for a name of another form, or of a method that is not known here."""
    for method in sorted(list_methods(), key=len, reverse=True):
        form = rf"(.+)-{re.escape(method)}(?:-([0-9]+))?(?:-(cut[0-9]+))?-([0-9a-f]{{8}})"
        if found := re.fullmatch(form, abbr):
            model, budget, cut, mark = found.groups()
            base = f"{method} {int(budget):,}" if budget else method
            return Named(model, method, f"{base} ({', '.join(filter(None, [cut, mark]))})")
    return None


def untold(manifest: Mapping[str, Any], model: str, dataset: str) -> str:
    """Why a manifest does not stand for the samples of this model and dataset; empty if it does.

    A file that was put there by hand may be another's, or no manifest at all.
    """
    if not manifest:
        return "there is no manifest"
    lacking = [part for part in ("model", "method", "dataset") if not manifest.get(part)]
    if lacking:
        return f"its manifest has no {' and no '.join(lacking)}"
    about, known = manifest["dataset"], named(model)
    if about.get("n") is None:
        return "its manifest does not say how many samples there are"
    own = about.get("abbr") or dataset
    if own not in (dataset, re.sub("_[0-9]+$", "", dataset)):  # of a part, or of the whole
        return f"its manifest is of {own}"
    method = manifest["method"]["name"]
    if known and f"-{method}-" not in model:  # names of others' methods may have parts
        return f"its manifest is of {method}"
    return ""
