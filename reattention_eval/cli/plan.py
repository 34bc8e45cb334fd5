"""`reattention-eval plan`: what a prompt takes of each GPU, and the longest that fits."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from reattention_eval.cli.console import out
from reattention_eval.efficiency import (
    Placement,
    accelerator_memory,
    largest_length,
    plan_memory,
    prompt_forward,
    read_shape,
    usable,
)
from reattention_eval.errors import ConfigError
from reattention_eval.methods import build_method

GIB = 2**30
MOST_GIB = 2**20
COLUMNS = "method", "weights", "cache", "workspace", "a GPU"


def show_plan(
    model: str,
    length: int,
    methods: Sequence[str],
    *,
    placement: Placement,
    memory_gib: float | None,
    rows: int = 1,
) -> list[bool]:
    """Print the plan of every method; for each, whether the length fits (or is not known).

    Args:
        length: tokens of a prompt and its answer.
        memory_gib: of one GPU; None takes what this machine has.

    Raises:
        ConfigError, CheckpointError: an unknown model, method or setting.
    """
    shape = read_shape(model)
    memory, source = _memory(memory_gib)
    table = Table(title=_title(model, shape.parameters, length, rows, placement))
    for column in (*COLUMNS, "", "longest", "forward"):
        table.add_column(column, justify="left" if column == "method" else "right")
    found = []
    for method in map(build_method, methods):
        plan = plan_memory(shape, method, length, placement, rows)
        cells = [f"{part / GIB:.1f}" for part in (plan.weights, plan.cache, plan.workspace)]
        verdict, longest, forward, fits = "", "", "", True
        if memory is not None:
            fits = plan.total <= memory
            verdict = "fits" if fits else "too much"
            longest = f"{largest_length(shape, method, placement, memory, rows):,}"
            if fits:
                tokens = prompt_forward(shape, method, length, placement, memory, rows)
                forward = f"{tokens:,}"
        found.append(fits)
        name = f"{method.name} {method.budget:,}" if method.budget else method.name
        table.add_row(name, *cells, f"{plan.total / GIB:.1f}", verdict, longest, forward)
    out.print(table)
    if memory is None:
        _say("GiB; give --gpu-memory for the longest prompt that fits: this machine has no GPU.")
    else:
        _say(f"GiB and tokens; {memory / GIB:.1f} GiB usable {source}.")
        _say("forward: tokens of a prompt that one call of the model carries (session.stats too).")
    if shape.window and length > shape.window:
        _say(f"The trained window is {shape.window:,} tokens; full attention fails beyond it.")
    return found


def _memory(memory_gib: float | None) -> tuple[int | None, str]:
    if memory_gib is not None:
        if not 0 < memory_gib <= MOST_GIB:  # NaN neither
            raise ConfigError(
                f"no GPU has {memory_gib:g} GiB; give its memory in GiB, for example 80."
            )
        return usable(int(memory_gib * GIB)), f"of {memory_gib:g} on each GPU"
    gpus = accelerator_memory()
    if gpus:
        total = min(total for _, total in gpus)
        return usable(total), f"of {total / GIB:.0f} on each GPU of this machine"
    return None, ""


def _title(model: str, parameters: int, length: int, rows: int, placement: Placement) -> str:
    spread = ""
    if placement.gpus > 1:
        spread = f", layers over {placement.gpus} GPUs"
    if placement.tensor_parallel > 1:
        spread = f", heads over {placement.tensor_parallel} GPUs"
    batch = f"{rows} prompts of " if rows > 1 else ""
    return (
        f"{model}: {parameters / 1e9:.2f} billion parameters in {placement.dtype}, "
        f"{batch}{length:,} tokens{spread}"
    )


def _say(line: str) -> None:
    out.print(line, soft_wrap=True, markup=False)
