"""Whether the forms computed the same thing: without that no time is worth reporting.

Compared are the logits of the last token, of which the record keeps a sample: full attention in all
its forms, and every method within its scope, must agree; beyond it, each form with itself, and to
the bit, its answer too, wherever its cache is.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from reattention_eval.cache import DEVICE

SAMPLES = 64
# a lead of so many distances, in standard deviations of the logits, is no matter of rounding
MARGIN = 6.0
# ||a - b|| / ||b|| of logits; forms round differently, in every layer anew
TOLERANCE = {"bfloat16": 0.1, "float16": 0.03, "float32": 1e-3, "float64": 1e-6}
Cell = dict[str, Any]


def digest(logits: Tensor) -> dict[str, Any]:
    """What a record keeps of the logits [1, vocab] of the last token.

    `margin` is by how much the best token leads, in standard deviations of the logits.
    """
    row = logits[0].float().cpu()
    places = torch.linspace(0, len(row) - 1, min(SAMPLES, len(row))).long()
    best = row.topk(2).values
    return {
        "argmax": int(row.argmax()),
        "margin": float((best[0] - best[1]) / row.std()),
        "sample": [float(f"{x:.5g}") for x in row[places].tolist()],
        "bits": hashlib.sha256(row.numpy().tobytes()).hexdigest()[:16],
    }


def distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    """||a - b|| / ||b|| over the sampled logits; infinite where the samples differ in size."""
    a, b = one["sample"], other["sample"]
    if len(a) != len(b):
        return math.inf
    found = math.dist(a, b) / max(math.hypot(*b), 1e-30)
    return math.inf if math.isnan(found) else found


def _differ(one: Cell, other: Cell) -> str | None:
    """What of two tiers' cells is not the same to the bit; forwards of one size round alike."""
    a, b = one["runs"][0], other["runs"][0]
    if a.get("forward_tokens") != b.get("forward_tokens"):
        return None
    if a["logits"]["bits"] != b["logits"]["bits"]:
        return "logits"
    if a.get("selected") != b.get("selected"):
        return "selected positions"
    if a.get("decode_tokens") == b.get("decode_tokens") and a.get("answer") != b.get("answer"):
        return "answers"
    return None


def disagreements(cells: Sequence[Cell], dtype: str) -> list[str]:
    """One sentence for each pair that should agree and does not.

    cells: of one prompt, on one card: each with its `form`, `runs`, `full`, `within_scope`.
    """
    found = []
    tolerance = TOLERANCE[dtype]
    ran = [cell for cell in cells if cell.get("runs")]
    for cell in ran:
        first, *others = (run["logits"] for run in cell["runs"])
        worst = max((distance(other, first) for other in others), default=0.0)
        same_bits = all(other["bits"] == first["bits"] for other in others)
        # full attention runs kernels of others, which do not promise the same bits
        if worst > tolerance or not (same_bits or cell["full"]):
            where = "" if cell.get("cache", DEVICE) == DEVICE else f" in {cell['cache']}"
            found.append(
                f"{cell['form']}{where} at {cell['tokens']:,}: repeats differ by {worst:.2g}"
            )
    # full attention chooses its kernel by where its values are
    for one, other in combinations([cell for cell in ran if not cell["full"]], 2):
        if one["form"] == other["form"] and (what := _differ(one, other)):
            found.append(
                f"{one['form']} at {one['tokens']:,}: other {what} with the cache in "
                f"{one.get('cache', DEVICE)} than in {other.get('cache', DEVICE)}"
            )
    comparable = [cell for cell in ran if cell["full"] or cell["within_scope"]]
    for one, other in combinations(comparable, 2):
        a, b = one["runs"][0]["logits"], other["runs"][0]["logits"]
        far = distance(a, b)
        sure = min(a["margin"], b["margin"]) > MARGIN * max(far, tolerance / 20)
        if far > tolerance or (sure and a["argmax"] != b["argmax"]):
            found.append(
                f"{one['form']} and {other['form']} at {one['tokens']:,}: logits differ by "
                f"{far:.2g} of their norm, best tokens {a['argmax']} and {b['argmax']}"
            )
    return found
