"""`reattention-eval bench analysis`: full attention at its best, StreamingLLM, and ReAttention in
each tier of the cache, length by length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from reattention_eval.cache import DEVICE, TIERS
from reattention_eval.checkpoints.load import pick_dtype
from reattention_eval.cli.bench_e2e import ALWAYS, FOLDER, Wishes
from reattention_eval.cli.console import out
from reattention_eval.cli.plan import token_count
from reattention_eval.efficiency import Placement, peak_memory, plan_memory, read_shape
from reattention_eval.efficiency.cards import GIB
from reattention_eval.efficiency.e2e.estimate import Effort, Estimate
from reattention_eval.efficiency.e2e.forms import Form, at_hand, check_forms, parse_form
from reattention_eval.efficiency.e2e.models import is_checkpoint, paper_model
from reattention_eval.efficiency.e2e.record import read
from reattention_eval.efficiency.e2e.results import name_of
from reattention_eval.efficiency.e2e.room import least_bytes, why_not
from reattention_eval.efficiency.forecast import Gpu
from reattention_eval.errors import ConfigError, DataError
from reattention_eval.methods import ReAttention

FIRST = 8_192
COLUMNS = ("tokens", "form", "GPU", "host", "a run", "all", "sum", "measured")
# of PyTorch's kernels for a whole prompt the best that there is
WHOLE_ON_GPU = ("whole-cudnn", "whole-fa3")


@dataclass(frozen=True)
class Analysis:
    """Every form at every length; methods of ReAttention in each of `tiers`.

    Attributes:
        methods: as `bench e2e` takes them; None for the usual ones.
        lengths: as a person writes them, separated by commas; or the powers of two up to `until`.
    """

    methods: Sequence[str] | None = None
    lengths: str | None = None
    until: str = "1M"
    tiers: Sequence[str] = TIERS

    @property
    def sizes(self) -> list[int]:
        if self.lengths is not None:
            return [token_count(text) for text in self.lengths.split(",")]
        last = token_count(self.until)
        if last < FIRST:
            raise ConfigError(
                f"the lengths are 8K, 16K and so on up to --until, which is {last:,} tokens; give "
                "a larger one, or --lengths."
            )
        return [FIRST << i for i in range((last // FIRST).bit_length())]

    def forms(self, names: Sequence[str]) -> list[Form]:
        found = []
        for form in map(parse_form, self.methods or [*ALWAYS, *names]):
            own = isinstance(form.method, ReAttention)
            found += form.in_tiers(self.tiers if own else (DEVICE,))
        return found

    def cells(self, device: torch.device) -> list[tuple[Form, int]]:
        """See `Cells`."""
        here = at_hand(device)
        forms = self.forms([name for name in WHOLE_ON_GPU if name in here] or here)
        check_forms(forms, device)
        return [(form, tokens) for tokens in sorted(self.sizes) for form in forms]


def list_cells(wishes: Wishes, analysis: Analysis, effort: Effort, gpu: Gpu) -> None:
    """Print what a measurement would do on a card: which cells fit, and for how long.

    Raises:
        ConfigError: no such model, form or length.
    """
    known = is_checkpoint(wishes.model)
    shape = read_shape(wishes.model if known else paper_model(wishes.model).hub)
    dtype = "bfloat16" if gpu.name else str(pick_dtype(wishes.dtype)).removeprefix("torch.")
    placement = Placement(dtype=dtype, on_gpu=gpu.memory is not None)
    size = placement.itemsize
    estimate = Estimate(shape, size, gpu.rates, gpu.card)
    forms = analysis.forms(WHOLE_ON_GPU if gpu.memory else ["whole-flash"])
    where = gpu.name or "this machine"
    title = f"{Path(wishes.model).name} on {where}: GiB, and seconds by plan's rates"
    table = Table(title=title, box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for i, name in enumerate(COLUMNS):
        justify = "left" if i == 1 else "right"
        table.add_column(name, justify=justify, no_wrap=i != 1)  # type: ignore[arg-type]
    warm: set[tuple[str, int]] = set()
    total, measured = 0.0, _measured(wishes)
    for tokens in sorted(analysis.sizes):
        for form in forms:
            asked = shape, form.method, tokens + effort.decode, placement
            least = least_bytes(form, tokens, shape, shape.parameters * size, size)
            plan = plan_memory(*asked, tier=form.cache)
            needs = least._replace(device=max(least.device, plan.total))
            why = why_not(needs, gpu.memory, gpu.host)
            shown = needs.device
            if gpu.memory and not why and not form.whole:
                shown = peak_memory(*asked, gpu.memory, tier=form.cache)
            run, note = None, "no room" if why else ""
            whole: float | None = None
            if not why:
                note = measured.get((form.name, tokens), "")
                at = form.name, min(effort.warm_up, tokens)
                run = estimate.run_seconds(form, tokens, effort.decode)
                whole = estimate.cell_seconds(form, tokens, effort, at not in warm)
                warm.add(at)
                total += whole or 0.0
            table.add_row(
                f"{tokens:,}", form.name, f"{shown / GIB:.1f}",
                f"{needs.host / GIB:.1f}" if needs.host else "",
                *("" if x is None else f"{x:,.0f}" for x in (run, whole)),
                "" if whole is None else f"{total:,.0f}", note,
            )  # fmt: skip
    out.print(table)
    out.print(
        "measured: at that commit, in results/gpu or --out; a run: one prompt and its answer; all: "
        "a form's runs with its first prompt.",
        soft_wrap=True,
    )
    if gpu.rates is None:
        out.print("No rates of this machine are known: seconds are left empty.", soft_wrap=True)


def _measured(wishes: Wishes) -> dict[tuple[str, int], str]:
    """(name, tokens) of what the record on this machine has: of which commit."""
    paths = [wishes.out] if wishes.out else sorted(FOLDER.glob("e2e-*.json"))
    found: dict[tuple[str, int], str] = {}
    for path in paths:
        try:
            record = read(path)
        except DataError:
            continue
        if record.data["model"] != wishes.model and not wishes.out:
            continue
        for cell in record.data["cells"]:
            if cell["runs"]:
                env: dict[str, Any] = record.data["environments"][cell["environment"]]
                commit = str(env["commit"])[:7]
                found[name_of(cell), cell["tokens"]] = commit
    return found
