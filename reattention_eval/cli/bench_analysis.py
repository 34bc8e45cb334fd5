"""`reattention-eval bench analysis`: full attention at its best, StreamingLLM, and ReAttention in
each tier of the cache, length by length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from reattention_eval.cache import AUTO, DEVICE, TIERS
from reattention_eval.cache.tiers import HOST, TierBytes
from reattention_eval.checkpoints.load import pick_dtype
from reattention_eval.cli.bench_e2e import ALWAYS, FOLDER, Wishes
from reattention_eval.cli.console import out
from reattention_eval.cli.plan import token_count
from reattention_eval.efficiency import Placement, peak_memory, plan_memory, read_shape
from reattention_eval.efficiency.auto_plan import plan_auto
from reattention_eval.efficiency.e2e.estimate import Effort, Estimate
from reattention_eval.efficiency.e2e.forms import Form, at_hand, check_forms, parse_form
from reattention_eval.efficiency.e2e.models import check_name, device_name, model_name
from reattention_eval.efficiency.e2e.record import read
from reattention_eval.efficiency.e2e.results import name_of
from reattention_eval.efficiency.e2e.room import least_bytes, why_not
from reattention_eval.efficiency.forecast import Gpu
from reattention_eval.efficiency.plan import tiers_of
from reattention_eval.efficiency.shape import ModelShape
from reattention_eval.errors import ConfigError, DataError
from reattention_eval.machine_memory import GIB
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

    def ordered(self, names: Sequence[str]) -> list[tuple[Form, int]]:
        """(form, tokens), the shortest first; of a length what tables compare before the tiers, so
        that time that runs out leaves a whole comparison. names: of the plain model."""
        cells = [(form, tokens) for tokens in self.sizes for form in self.forms(names)]
        return sorted(cells, key=lambda cell: (cell[1], cell[0].cache != DEVICE))

    def cells(self, device: torch.device) -> list[tuple[Form, int]]:
        """See `Cells`."""
        here = at_hand(device)
        found = self.ordered([name for name in WHOLE_ON_GPU if name in here] or here)
        check_forms([form for form, _ in found], device)
        return found


class Listed(NamedTuple):
    """What a cell takes of a card.

    Attributes:
        needs: bytes of the GPU at most, and of host memory.
        why: there is no room for it; None where there is.
        run, cell: seconds of one prompt with its answer, and of all its runs with the form's first
            prompt; None where nothing tells.
    """

    needs: TierBytes
    why: str | None = None
    run: float | None = None
    cell: float | None = None


@dataclass
class Listing:
    """Cells of a model on a card, one after another: the first one of a form is warmed up."""

    shape: ModelShape
    placement: Placement
    gpu: Gpu
    effort: Effort

    def __post_init__(self) -> None:
        size = self.placement.itemsize
        self._estimate = Estimate(self.shape, size, self.gpu.rates, self.gpu.card)
        self._warm: set[tuple[str, int]] = set()

    def add(self, form: Form, tokens: int) -> Listed:
        found, placed = self._placed(form, tokens)
        if found.why:
            return found
        needs, memory = found.needs, self.gpu.memory
        if memory and not form.whole and form.cache != AUTO:
            asked = self.shape, form.method, tokens + self.effort.decode, self.placement, memory
            needs = needs._replace(device=peak_memory(*asked, tier=form.cache))
        at = form.name, min(self.effort.warm_up, tokens)
        run = self._estimate.run_seconds(placed, tokens, self.effort.decode)
        cell = self._estimate.cell_seconds(placed, tokens, self.effort, at not in self._warm)
        self._warm.add(at)
        return Listed(needs, None, run, cell)

    def _placed(self, form: Form, tokens: int) -> tuple[Listed, Form]:
        """`auto`: in the first tier that has room, else in the last, with what keys have room on
        the GPU."""
        if form.cache != AUTO:
            return self._room(form, tokens), form
        tiers = [replace(form, cache=tier) for tier in tiers_of(form.method)]
        rooms = [(self._room(one, tokens), one) for one in tiers]
        found = next((room for room in rooms if not room[0].why), rooms[-1])
        memory = self.gpu.memory
        if memory is None or found[1].cache != HOST:
            return found
        asked = self.shape, form.method, tokens + self.effort.decode, self.placement, memory
        if (auto := plan_auto(*asked)) is None:
            return found
        needs = TierBytes(auto.plan.total, auto.plan.host)
        return Listed(needs, why_not(needs, memory, self.gpu.host)), found[1]

    def _room(self, form: Form, tokens: int) -> Listed:
        size, asked = self.placement.itemsize, tokens + self.effort.decode
        least = least_bytes(form, tokens, self.shape, self.shape.parameters * size, size)
        plan = plan_memory(self.shape, form.method, asked, self.placement, tier=form.cache)
        needs = least._replace(device=max(least.device, plan.total))
        return Listed(needs, why_not(needs, self.gpu.memory, self.gpu.host))


def list_cells(wishes: Wishes, analysis: Analysis, effort: Effort, gpu: Gpu) -> None:
    """Print what a measurement would do on a card: which cells fit, and for how long.

    Raises:
        ConfigError: no such model, form or length.
    """
    check_name(wishes.model)
    shape = read_shape(wishes.model)
    dtype = "bfloat16" if gpu.name else str(pick_dtype(wishes.dtype)).removeprefix("torch.")
    placement = Placement(dtype=dtype, on_gpu=gpu.memory is not None)
    listing, measured = Listing(shape, placement, gpu, effort), _measured(wishes, gpu)
    where = gpu.name or "this machine"
    title = f"{Path(wishes.model).name} on {where}: GiB, and seconds by plan's rates"
    table = Table(title=title, box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for i, name in enumerate(COLUMNS):
        justify = "left" if i == 1 else "right"
        table.add_column(name, justify=justify, no_wrap=i != 1)  # type: ignore[arg-type]
    total = 0.0
    for form, tokens in analysis.ordered(WHOLE_ON_GPU if gpu.memory else ["whole-flash"]):
        one = listing.add(form, tokens)
        total += one.cell or 0.0
        seconds = (one.run, one.cell, None if one.cell is None else total)
        table.add_row(
            f"{tokens:,}", form.name, f"{one.needs.device / GIB:.1f}",
            f"{one.needs.host / GIB:.1f}" if one.needs.host else "",
            *("" if x is None else f"{x:,.0f}" for x in seconds),
            "no room" if one.why else measured.get((form.name, tokens), ""),
        )  # fmt: skip
    out.print(table)
    out.print(
        "measured: on that card at that commit, in results/gpu or --out; a run: one prompt and its "
        "answer; all: a form's runs with its first prompt.",
        soft_wrap=True,
    )
    if gpu.rates is None:
        out.print("No rates of this machine are known: seconds are left empty.", soft_wrap=True)


def _measured(wishes: Wishes, gpu: Gpu) -> dict[tuple[str, int], str]:
    """(name, tokens) of what the records here have of this card: of which commit,
    `yes` where that is not known."""
    memory = None if wishes.gpu_memory is None else int(wishes.gpu_memory * GIB)
    asked = gpu.name or device_name(wishes.place), memory
    paths = [wishes.out] if wishes.out else sorted(FOLDER.glob("e2e-*.json"))
    found: dict[tuple[str, int], str] = {}
    for path in paths:
        try:
            record = read(path)
        except DataError:
            continue
        if (record.data["device"], record.data.get("gpu_memory")) != asked:
            continue
        if record.data["model"] != model_name(wishes.model) and not wishes.out:
            continue
        for cell in record.data["cells"]:
            if cell["runs"]:
                env: dict[str, Any] = record.data["environments"][cell["environment"]]
                commit = str(env["commit"] or "yes")[:7]
                found[name_of(cell), cell["tokens"]] = commit
    return found
