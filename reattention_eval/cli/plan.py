"""`reattention-eval plan`: what a prompt takes of a GPU, how long, and the longest that fits."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import accumulate
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table

from reattention_eval.cache.tiers import DEVICE
from reattention_eval.cli.console import out
from reattention_eval.efficiency import ModelShape, Placement, read_shape
from reattention_eval.efficiency.forecast import Forecast, Gpu, forecast
from reattention_eval.efficiency.work import TIMED, counted_as
from reattention_eval.errors import ConfigError
from reattention_eval.machine_memory import GIB
from reattention_eval.methods import Method, method_of_text

MOST_GIB = 2**20
MOST_TOKENS = 2**40
FEW = 4  # methods
# of COLUMNS; behind _TIMES stands what is known of prompts that fit
_WEIGHTS, _WORKSPACE, _TIMES = 2, 4, 9
_WIDEST = 1000  # columns of a table that is measured
COLUMNS = (
    "method", "cache in", "weights", "cache", "workspace", "a GPU", "host", "", "longest",
    "forward", "peak", "first token", "tokens/s",
)  # fmt: skip
_LENGTH = re.compile(r"(\d[\d_,]*)([km]?)", re.IGNORECASE)


class _Asked(NamedTuple):
    model: str
    shape: ModelShape
    length: int
    placement: Placement
    gpu: Gpu
    rows: int


def token_count(text: str) -> int:
    """`131072`, `128K` or `1M`: K is 1,024 and M 1,048,576.

    Raises:
        ConfigError: anything else.
    """
    found = _LENGTH.fullmatch(text.strip())
    if found:
        unit = {"": 1, "k": 1 << 10, "m": 1 << 20}[found[2].lower()]
        tokens = int(re.sub("[_,]", "", found[1])) * unit
        if 0 < tokens <= MOST_TOKENS:
            return tokens
    raise ConfigError(
        f"a length is a number of tokens from 1 on, as 131072, 128K or 1M; found {text!r:.40}."
    )


def gpu_of(key: str, memory_gib: float | None) -> Gpu:
    """The card to plan for; memory_gib: of one GPU, in place of the card's own.

    Raises:
        ConfigError: no such card or memory.
    """
    if memory_gib is None:
        return Gpu.of(key)
    if not 0 < memory_gib <= MOST_GIB:  # NaN neither
        raise ConfigError(f"no GPU has {memory_gib:g} GiB; give its memory in GiB, for example 80.")
    return Gpu.of(key, int(memory_gib * GIB))


def show_plan(
    model: str,
    length: int,
    methods: Sequence[str],
    *,
    placement: Placement,
    gpu: Gpu,
    rows: int = 1,
    weight_bits: float | None = None,
    as_json: bool = False,
) -> list[bool]:
    """Print the plan of every method; for each, whether the length fits in a tier, or is not known.

    Args:
        length: tokens of a prompt and its answer.
        methods: few get a sentence each where the length does not fit; many the table alone.
        weight_bits: of the layers' weights where they are quantised.
        as_json: one object, for programs.

    Raises:
        ConfigError, CheckpointError: an unknown model, method or setting.
    """
    shape = read_shape(model)
    if weight_bits is not None:
        if not 1 <= weight_bits <= 32:
            raise ConfigError(f"no weight has {weight_bits:g} bits; give 8, for example, or 4.5.")
        shape = replace(shape, weight_bits=weight_bits)
    if placement.gpus > shape.layers:
        raise ConfigError(
            f"{model} has {shape.layers} layers, which cannot be spread over {placement.gpus} "
            f"GPUs; give at most {shape.layers}."
        )
    plans = [
        forecast(shape, method, length, placement, gpu, rows)
        for method in map(method_of_text, methods)
    ]
    asked = _Asked(model, shape, length, placement, gpu, rows)
    if as_json:
        _print_json(asked, plans)
    else:
        _print_table(asked, plans)
    return [any(one.fits is not False for one in tiers) for tiers in plans]


def _print_json(asked: _Asked, plans: list[list[Forecast]]) -> None:
    shape, gpu = asked.shape, asked.gpu
    rates = gpu.rates
    found = {
        "model": asked.model,
        "parameters": shape.parameters,
        "weight_bits": shape.weight_bits,
        "window": shape.window,
        "tokens": asked.length,
        "batch_size": asked.rows,
        "placement": asdict(asked.placement),
        "gpu": gpu.name,
        "usable_bytes": gpu.memory,
        "host_bytes": gpu.host,
        "rates": rates and {"measured": rates.measured, "scaled_from": rates.scaled_from},
        "plans": [one.as_dict() for tiers in plans for one in tiers],
    }
    out.print(json.dumps(found, indent=1), soft_wrap=True, markup=False)


def _print_table(asked: _Asked, plans: list[list[Forecast]]) -> None:
    gpu, length, window = asked.gpu, asked.length, asked.shape.window
    lines = [_cells(one) for tiers in plans for one in tiers]
    shown = [i for i, name in enumerate(COLUMNS) if name or gpu.memory is not None]
    shown = [i for i in shown if any(line[i] for line in lines)]
    title = _title(asked)
    table = _table(title, lines, shown)
    if table.__rich_measure__(out, out.options).maximum <= out.width:
        out.print(table)
    else:
        _print_narrow(title, lines, shown)
    for note in (*_memory_notes(gpu), *_time_notes(gpu, plans)):
        _say(note)
    for tiers in plans if len(plans) <= FEW else ():
        if tiers[0].fits is False:
            _say(_instead(tiers, length))
    if window and length > window:
        _say(f"The trained window is {window:,} tokens; full attention fails beyond it.")


def _table(
    title: str | None, lines: list[tuple[str, ...]], shown: list[int], narrow: bool = False
) -> Table:
    if narrow:
        table = Table(title=title, box=SIMPLE_HEAD, padding=0, pad_edge=False)
    else:
        table = Table(title=title)
    for i in shown:
        justify = "left" if i < 2 else "right"
        table.add_column(COLUMNS[i], justify=justify, no_wrap=narrow)  # type: ignore[arg-type]
    for line in lines:
        table.add_row(*(line[i] for i in shown))
    return table


def _print_narrow(title: str, lines: list[tuple[str, ...]], shown: list[int]) -> None:
    """Memory, a tier's name under its method's; then times. What a narrow screen has no room for is
    what follows from the rest."""
    first = [line[0] or f"  {line[1]}" for line in lines]
    named = [(x, *line[1:]) for x, line in zip(first, lines, strict=True)]
    memory = [i for i in shown if i != 1 and i < _TIMES]
    without: tuple[int, ...]
    for without in ((), (_WORKSPACE,), (_WORKSPACE, _WEIGHTS)):
        kept = [i for i in memory if i not in without]
        table = _table(title, named, kept, True)
        if _WORKSPACE in kept:
            table.columns[kept.index(_WORKSPACE)].header = "work"
        if table.__rich_measure__(out, out.options.update(max_width=_WIDEST)).maximum <= out.width:
            break
    out.print(table)
    times = [i for i in shown if i >= _TIMES]
    names = list(accumulate((line[0] for line in lines), _own_or_former))
    timed = [(x, *y[1:]) for x, y in zip(names, lines, strict=True) if any(y[i] for i in times)]
    if timed:
        out.print(_table(None, timed, [0, 1, *times], narrow=True))


def _own_or_former(former: str, own: str) -> str:
    return own or former


def _cells(one: Forecast) -> tuple[str, ...]:
    plan, mark = one.plan, "~" if one.estimated else ""
    sizes = (plan.weights, plan.cache, plan.workspace, plan.total)
    return (
        _name(one.method) if one.tier == DEVICE else "",
        one.tier,
        *map(_gib, sizes),
        _gib(plan.host) if plan.host else "",
        "" if one.fits is None else "fits" if one.fits else "too much",
        "" if one.longest is None else f"{one.longest:,}",
        "" if one.forward is None else f"{one.forward:,}",
        "" if one.peak is None else f"{one.peak / GIB:.1f}",
        "" if one.ttft is None else mark + _seconds(one.ttft),
        "" if one.tpot is None else mark + f"{1 / one.tpot:.3g}",
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}" if size < 10_000 * GIB else f"{size / GIB:,.0f}"


def _name(method: Method) -> str:
    return f"{method.name} {method.budget:,}" if method.budget else method.name


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:,.0f} s"


def _memory_notes(gpu: Gpu) -> list[str]:
    if gpu.memory is None:
        return [
            "GiB; give --gpu or --gpu-memory for the longest prompt that fits: this machine has no "
            "GPU."
        ]
    of = gpu.name or "each GPU"
    return [
        f"GiB and tokens; {gpu.memory / GIB:.1f} GiB usable of {of}.",
        "forward: tokens of a prompt that one call of the model carries (session.stats too); peak: "
        "what is expected with it, where `a GPU` is the least.",
    ]


def _time_notes(gpu: Gpu, plans: list[list[Forecast]]) -> list[str]:
    timed = [one for tiers in plans for one in tiers if one.ttft is not None]
    if gpu.rates is None:
        what = gpu.name or ("a GPU of which only the memory is known" if gpu.memory else "")
        return [f"No measured rates for {what}: times are left empty."] if what else []
    if not timed:
        return [
            f"No times: they are known of {TIMED}, one prompt that fits, on one GPU, in 16 bit."
        ]
    said = f"Times by rates measured with {gpu.rates.measured}"
    if gpu.rates.scaled_from:
        said += f" on {gpu.rates.scaled_from}; ~ scaled to this card by both data sheets"
    notes = [f"{said}."]
    if any(counted_as(tiers[0].method) is None for tiers in plans):
        notes.append(f"Times are known of {TIMED} alone.")
    if any(counted_as(one.method) != one.method for one in timed):
        notes.append(
            "~ of reattention_plus, with all on the GPU: those of reattention with its sizes, "
            "within 6% of four measured prompts and 13% of their tokens."
        )
    if any(one.tier != DEVICE for one in timed):
        link = "the data sheet's link"
        if gpu.rates.moved:
            link = f"a link of {1e-9 / gpu.rates.moved:.0f} GB/s"
            link += ", so scaled" if gpu.rates.scaled_from else ", as measured"
        notes.append(
            f"~ of tiers on the host: transfers by {link}; a prompt waits for "
            f"{gpu.rates.awaited:.0%} of its views' values, a token for what its selection does "
            "not share by chance with the one before."
        )
    return notes


def _instead(tiers: list[Forecast], length: int) -> str:
    """What fits where the device alone does not hold a prompt."""
    name = _name(tiers[0].method)
    fitting = [one.tier for one in tiers if one.fits]
    if fitting:
        return f"{name}: {length:,} tokens fit with the cache in {' or '.join(fitting)}."
    longest = max(tiers, key=lambda one: one.longest or 0)
    if not longest.longest:
        return f"{name}: not even the weights fit; give a larger GPU, or more of them (--gpus)."
    where = f" (cache in {longest.tier})" if len(tiers) > 1 else ""
    return f"{name}: the longest that fits is {longest.longest:,} tokens{where}."


def _title(asked: _Asked) -> str:
    shape, placement, rows = asked.shape, asked.placement, asked.rows
    spread = ""
    kind = placement.dtype
    if shape.weight_bits is not None:
        kind += f" and {shape.weight_bits:g} bits a weight"
    if placement.gpus > 1:
        spread = f", layers over {placement.gpus} GPUs"
    if placement.tensor_parallel > 1:
        spread = f", heads over {placement.tensor_parallel} GPUs"
    batch = f"{rows} prompts of " if rows > 1 else ""
    return (
        f"{asked.model}: {shape.parameters / 1e9:.2f} billion parameters in {kind}, "
        f"{batch}{asked.length:,} tokens{spread}"
    )


def _say(line: str) -> None:
    out.print(line, soft_wrap=True, markup=False)
