"""What the commands of `reattention-eval bench` do."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from reattention_eval.cache import DEVICE
from reattention_eval.cli.console import err, out
from reattention_eval.cli.device import checked_device
from reattention_eval.cli.plan import token_count
from reattention_eval.efficiency.e2e.bars import bars_of
from reattention_eval.efficiency.e2e.cold_start import STATES, ColdStart, measure_cold
from reattention_eval.efficiency.e2e.estimate import Effort, estimate_of
from reattention_eval.efficiency.e2e.forms import (
    Form,
    at_hand,
    check_forms,
    fitting_forms,
    parse_form,
)
from reattention_eval.efficiency.e2e.lines import write_lines
from reattention_eval.efficiency.e2e.measure import Bench
from reattention_eval.efficiency.e2e.meters import PowerMeter
from reattention_eval.efficiency.e2e.models import about_model, bench_model, check_name
from reattention_eval.efficiency.e2e.parts import matmul_ceiling, measure_parts
from reattention_eval.efficiency.e2e.prompts import prompt, text_ids, text_name
from reattention_eval.efficiency.e2e.record import E2ERecord, environment, read
from reattention_eval.efficiency.e2e.results import require_agreement
from reattention_eval.efficiency.e2e.room import held_back
from reattention_eval.efficiency.e2e.table import markdown, write_tables
from reattention_eval.errors import ConfigError
from reattention_eval.machine_memory import GIB
from reattention_kernels.bench import card
from reattention_kernels.bench import record as kernels

Problems = Callable[[], list[str]]
Joules = Callable[[float, float], float | None]
ALWAYS = ("reattention", "full", "streaming_llm")
FOLDER = Path("results/gpu")


@dataclass(frozen=True)
class Wishes:
    """What both measuring commands are asked for."""

    model: str
    dtype: str
    device: str | None
    out: Path | None
    commit: str | None
    text: Path | None = None
    gpu_memory: float | None = None
    weights: str | None = None

    @property
    def place(self) -> torch.device:
        place = checked_device(self.device, "cuda, cuda:1 or cpu")
        if place == torch.device("cuda"):
            place = torch.device("cuda", torch.cuda.current_device())
        return place

    def file(self, about: dict[str, Any]) -> Path:
        words = f"{about['model']} {self.weights or ''} {about['device']}"
        if self.gpu_memory is not None:
            words += f" {self.gpu_memory:g}g"
        if self.text is not None:
            words += f" {self.text.stem}"
        name = re.sub(r"[^a-z0-9.]+", "-", words.lower())
        return self.out or FOLDER / f"e2e-{name.strip('-')}.json"

    def check_file(self) -> None:
        """Before anything long: whether a record can be written there, and read where there is one.

        Raises:
            OSError: it cannot be written.
            DataError: what is there is no record.
        """
        folder = self.out.parent if self.out else FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        if self.out and self.out.exists():
            read(self.out)


class Cells(Protocol):
    """What is to be measured."""

    def cells(self, device: torch.device) -> list[tuple[Form, int]]:
        """(form, tokens), the shortest first."""
        ...


@dataclass(frozen=True)
class Grid:
    """Which forms at which lengths and in which tiers; `only` takes the place of the first two, and
    of the third where it says one."""

    methods: Sequence[str] | None
    lengths: str
    only: Sequence[str]
    caches: Sequence[str] = (DEVICE,)

    def cells(self, device: torch.device) -> list[tuple[Form, int]]:
        """(form, tokens), the shortest first.

        Raises:
            ConfigError: an unknown form, one that cannot run on the device, or no length.
        """
        if self.only:
            found = [cell for text in self.only for cell in self._one(text)]
        else:
            names = self.methods or [*ALWAYS, *at_hand(device)]
            sizes = [token_count(text) for text in self.lengths.split(",")]
            found = [
                (form, tokens)
                for tokens in sizes
                for name in names
                for form in parse_form(name).in_tiers(self.caches)
            ]
        check_forms([form for form, _ in found], device)
        return sorted(found, key=lambda cell: cell[1])

    def _one(self, text: str) -> list[tuple[Form, int]]:
        """FORM@LENGTH or FORM@LENGTH@TIER."""
        form, *rest = text.split("@")
        tiers = rest[1:] or self.caches
        if not 1 <= len(rest) <= 2:
            raise ConfigError(f"a cell is FORM@LENGTH or FORM@LENGTH@TIER; found {text!r:.80}.")
        return [(one, token_count(rest[0])) for one in parse_form(form).in_tiers(tiers)]


def run(wishes: Wishes, grid: Cells, effort: Effort) -> bool:
    """Measure, and print the tables; False where the card was shared or slowed down.

    Raises:
        ConfigError, CheckpointError, DataError: before anything long starts.
        DataError: forms that should agree do not.
    """
    device = wishes.place
    cells = grid.cells(device)
    check_name(wishes.model, wishes.weights)
    text = None
    if wishes.text is not None:
        text = text_ids(wishes.model, wishes.text, max(tokens for _, tokens in cells))
    wishes.check_file()
    if not _alone(device):
        return False
    ceiling = matmul_ceiling() if device.type == "cuda" else None
    ballast = None
    if wishes.gpu_memory is not None:
        ballast = held_back(device, int(wishes.gpu_memory * GIB))
    fitting = fitting_forms([form for form, _ in cells])
    model = bench_model(wishes.model, device, wishes.dtype, fitting, wishes.weights)
    about = about_run(wishes, model)
    record = E2ERecord.begin(wishes.file(about), about)
    number = record.environment(environment(device, wishes.commit))
    if why := record.data["environments"][number].get("untraceable"):
        err.print(f"no bar can be made of this: {why}", markup=False, soft_wrap=True)
    if ceiling is not None:
        record.data.setdefault("ceilings", {})[str(number)] = ceiling
    with _watched(device) as (problems, joules):
        bench = Bench(
            model, record, number, effort, _say, problems, estimate_of(about), joules,
            0 if ballast is None else ballast.numel(), text,
        )  # fmt: skip
        found = bench.measure(cells)
    if found:
        _refuse(found)
        return False
    require_agreement(record)
    for one in bench.left:
        _say(f"left for another call: {one}")
    _say(markdown(record))
    _say(f"written: {record.path}")
    return True


def about_run(wishes: Wishes, model: Any) -> dict[str, Any]:
    """What a record says of `run`'s model, card and prompt."""
    about = about_model(wishes.model, model, wishes.weights)
    if wishes.gpu_memory is not None:
        about["gpu_memory"] = int(wishes.gpu_memory * GIB)
    if wishes.text is not None:
        about["prompt"] = text_name(wishes.text)
    return about


def run_parts(wishes: Wishes, form: str, tokens: int) -> bool:
    """See `measure_parts`; False where the card was shared or slowed down.

    Raises:
        ConfigError: no GPU, no such model or form.
    """
    device, chosen = wishes.place, parse_form(form)
    check_forms([chosen], device)
    check_name(wishes.model)
    if device.type != "cuda":
        raise ConfigError("kernels are watched on a GPU, and none was chosen or is visible.")
    wishes.check_file()
    if not _alone(device):
        return False
    model = bench_model(wishes.model, device, wishes.dtype, fitting_forms([chosen]))
    about = about_model(wishes.model, model)
    record = E2ERecord.begin(wishes.file(about), about)
    ids = prompt(tokens, model.config.vocab_size).to(device)
    with _watched(device) as (problems, _), chosen.session(model) as session:
        parts = measure_parts(lambda: session.prefill(ids, reuse_prefix=False))
        found = problems()
    if found:
        _refuse(found)
        return False
    number = record.environment(environment(device, wishes.commit))
    _keep(record, "parts", {"form": form, "tokens": tokens, "environment": number}, parts)
    for part, taken in sorted(parts["parts_ms"].items(), key=lambda item: -item[1]):
        _say(f"{part:16} {taken:10,.1f} ms  {taken / parts['ms']:6.1%}")
    _say(f"{'between kernels':16} {parts['ms'] - parts['kernels_ms']:10,.1f} ms")
    _say(f"outside selection, linear layers, MLP, view attention: "
         f"{parts['outside_ms'] / parts['ms']:.1%} of {parts['ms']:,.1f} ms")  # fmt: skip
    _say(f"written: {record.path}")
    return True


def _keep(record: E2ERecord, name: str, key: dict[str, Any], found: dict[str, Any]) -> None:
    """One entry of a list in the record, in the place of an older one of the same key."""
    others = [x for x in record.data.get(name, []) if {**x, **key} != x]
    record.data[name] = [*others, {**key, **found}]
    record.save()


def run_cold(wishes: Wishes, form: str, tokens: int) -> None:
    """See `measure_cold`; this process stays off the GPU, which the children have to themselves."""
    parse_form(form)
    check_name(wishes.model)
    wishes.check_file()
    device = wishes.device or ("cuda" if torch.cuda.is_available() else "cpu")
    asked = ColdStart(wishes.model, form, tokens, wishes.dtype, device, wishes.commit)
    found = measure_cold(asked, _say)
    record = E2ERecord.begin(wishes.file(found["about"]), found["about"])
    number = record.environment(found["environment"])
    key = {"form": form, "tokens": tokens, "environment": number}
    _keep(record, "cold", key, {state: found[state] for state in STATES})
    _say(f"written: {record.path}")


def show(paths: Sequence[Path], into: Path | None, bars: Path | None) -> None:
    """Tables and lines of CSV beside records; plots of several lengths, or of a long answer.

    Raises:
        DataError: no such record, or forms that should agree do not.
    """
    records = [read(path) for path in paths]
    for path, record in zip(paths, records, strict=True):
        table = markdown(record, every=True)
        _say(f"{record.name}\n\n{table}")
        write_lines(record, path.with_suffix(".csv"))
        path.with_suffix(".md").write_text(f"# {record.name}\n\n{table}", encoding="utf-8")
        try:
            from reattention_eval.efficiency.e2e.plot import draw

            if draw(record, path.with_suffix(".png")) is None:
                path.with_suffix(".png").unlink(missing_ok=True)  # of fewer runs, or an older form
        except ImportError as error:
            err.print(f"no plot: {error}", markup=False)
    if into:
        write_tables(records, into)
    if bars:
        entries = [entry for record in records for entry in bars_of(record, _say)]
        kernels.save(bars, entries)
        for entry in entries:
            _say(f"{entry['id']:4} {entry['value']:.3f} {entry['unit']} {entry['shape']}")


def _refuse(found: Sequence[str]) -> None:
    err.print(
        f"not recorded: {'; '.join(found)}. Measure on a card that is yours alone and cool.",
        style="red", markup=False, soft_wrap=True,
    )  # fmt: skip


def _alone(device: torch.device) -> bool:
    """Whether a measurement may begin: nobody else works on that GPU, which is chosen."""
    if device.type != "cuda":
        return True
    torch.cuda.set_device(device)
    if found := card.sharing():
        _refuse(found)
    return not found


@contextlib.contextmanager
def _watched(device: torch.device) -> Iterator[tuple[Problems, Joules]]:
    if device.type != "cuda":
        yield list, lambda start, stop: None
        return
    with card.Watch() as watch, PowerMeter() as power:
        yield watch.problems, power.joules


def _say(line: str) -> None:
    out.print(line, markup=False, soft_wrap=True)
