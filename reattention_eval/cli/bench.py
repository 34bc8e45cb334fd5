"""`reattention-eval bench`: whole prompts measured beside the fastest full attention."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reattention_eval.cli.console import FAILED, readable_errors

bench = typer.Typer(help="TTFT, TPOT and memory beside the fastest full attention.",
                    no_args_is_help=True)  # fmt: skip

Repeats = Annotated[int, typer.Option(help="Runs of a form and length.", min=1)]
Patience = Annotated[
    float, typer.Option(help="Seconds after which a form and length gets no further run.")
]
Decode = Annotated[int, typer.Option(help="Tokens timed behind the prompt.", min=0)]
WarmUp = Annotated[int, typer.Option(help="Tokens of the first, untimed prompt of a form.", min=1)]
Dtype = Annotated[str, typer.Option(help="Of weights and cache.")]
Commit = Annotated[str | None, typer.Option(help="Of a copy without Git history.")]
Minutes = Annotated[
    float | None,
    typer.Option(help="Start no run that is expected to end later; call again for the rest."),
]
GpuMemory = Annotated[
    float | None, typer.Option(help="GiB of the GPU to measure as if it had no more, e.g. 79.1.")
]


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


@bench.command()
@readable_errors
def e2e(
    model: Annotated[
        str,
        typer.Argument(
            help="Folder of a checkpoint, an embedded model, or one of the paper's models "
            "(LLaMA3.1-8B, Qwen2-1.5B, ...), which gets random weights."
        ),
    ],
    methods: Annotated[
        str | None,
        typer.Option(
            help="Separated by spaces: methods, with settings as reattention:chunk_size=2048, and "
            "whole-cudnn, whole-flash, whole-fa3, the plain model's whole prompt. ReAttention, "
            "StreamingLLM and every full attention at hand if left out."
        ),
    ] = None,
    lengths: Annotated[
        str, typer.Option(help="Prompt lengths, e.g. 32768,131072 or 32K,1M.")
    ] = "32768",
    cache: Annotated[
        str,
        typer.Option(
            help="Where keys and values are: device, values_on_host, host, auto; several, "
            "separated by commas, are measured side by side. Forms on the model's own cache have "
            "it on the device."
        ),
    ] = "device",
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="FORM@LENGTH or FORM@LENGTH@TIER, in the place of all methods at all lengths; "
            "repeatable."
        ),
    ] = None,
    repeats: Repeats = 3,
    patience: Patience = 60.0,
    decode: Decode = 64,
    warm_up: WarmUp = 32_768,
    dtype: Dtype = "auto",
    device: Annotated[str | None, typer.Option(help="As cuda:0; a GPU where there is one.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Record to write or add to. results/gpu/e2e-MODEL-DEVICE.json if left out."
        ),
    ] = None,
    commit: Commit = None,
    minutes: Minutes = None,
    gpu_memory: GpuMemory = None,
    text: Annotated[
        Path | None,
        typer.Option(help="Text that prompts begin with, for a checkpoint; else random tokens."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="int8: random weights as torchao's, for a shape too large for 16 bit."),
    ] = None,
) -> None:
    """Measure; each run is kept at once, and a later call adds to the same record."""
    from reattention_eval.cli.bench_e2e import Grid, Wishes, run
    from reattention_eval.efficiency.e2e.estimate import Effort, ending_in

    until = ending_in(minutes)
    wishes = Wishes(model, dtype, device, out, commit, text, gpu_memory, weights)
    grid = Grid(methods.split() if methods else None, lengths, only or [], _listed(cache))
    effort = Effort(repeats, patience, decode, warm_up, until)
    if not run(wishes, grid, effort):
        raise typer.Exit(FAILED)


@bench.command()
@readable_errors
def analysis(
    model: Annotated[str, typer.Argument(help="As for e2e.")],
    until: Annotated[str, typer.Option(help="Longest prompt: 8K, 16K and so on up to it.")] = "1M",
    lengths: Annotated[
        str | None, typer.Option(help="In their place: prompt lengths, e.g. 32K,128K.")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="As for e2e; if left out ReAttention, StreamingLLM, full attention as attached, "
            "and the plain model's by cuDNN and FlashAttention-3."
        ),
    ] = None,
    cache: Annotated[
        str, typer.Option(help="Tiers in which ReAttention is measured.")
    ] = "device,values_on_host,host",
    minutes: Minutes = None,
    listed: Annotated[
        bool,
        typer.Option("--list", help="Measure nothing; list the cells, what fits and for how long."),
    ] = False,
    gpu: Annotated[
        str, typer.Option(help="With --list: h100-80g, h200, a100-80g, or auto.")
    ] = "auto",
    repeats: Repeats = 3,
    patience: Patience = 30.0,
    decode: Decode = 64,
    warm_up: WarmUp = 32_768,
    dtype: Dtype = "auto",
    device: Annotated[str | None, typer.Option(help="As for e2e.")] = None,
    out: Annotated[Path | None, typer.Option(help="Record to add to, as for e2e.")] = None,
    commit: Commit = None,
    gpu_memory: GpuMemory = None,
) -> None:
    """Full attention at its best, StreamingLLM, and ReAttention in each tier, from 8K on: times,
    memory of GPU and host, energy. Resumed cell by cell; `report` makes tables and plots."""
    from reattention_eval.cli.bench_analysis import Analysis, list_cells
    from reattention_eval.cli.bench_e2e import Wishes, run
    from reattention_eval.cli.plan import gpu_of
    from reattention_eval.efficiency.e2e.estimate import Effort, ending_in

    wishes = Wishes(model, dtype, device, out, commit, None, gpu_memory)
    effort = Effort(repeats, patience, decode, warm_up, ending_in(minutes))
    cells = Analysis(methods.split() if methods else None, lengths, until, _listed(cache))
    if listed:
        list_cells(wishes, cells, effort, gpu_of(gpu, gpu_memory))
    elif not run(wishes, cells, effort):
        raise typer.Exit(FAILED)


@bench.command()
@readable_errors
def cold(
    model: Annotated[str, typer.Argument(help="As for e2e.")],
    tokens: Annotated[int, typer.Option(help="Of the prompt.", min=1)] = 32_768,
    method: Annotated[str, typer.Option(help="With settings, as for e2e.")] = "reattention",
    dtype: Dtype = "auto",
    device: Annotated[str | None, typer.Option(help="As for e2e.")] = None,
    out: Annotated[Path | None, typer.Option(help="Record to add to, as for e2e.")] = None,
    commit: Commit = None,
) -> None:
    """The first prompt of a fresh process against its second: compile caches empty, then filled."""
    from reattention_eval.cli.bench_e2e import Wishes, run_cold

    run_cold(Wishes(model, dtype, device, out, commit), method, tokens)


@bench.command()
@readable_errors
def parts(
    model: Annotated[str, typer.Argument(help="As for e2e.")],
    tokens: Annotated[int, typer.Option(help="Of the prompt.", min=1)] = 131_072,
    method: Annotated[str, typer.Option(help="With settings, as for e2e.")] = "reattention",
    dtype: Dtype = "auto",
    device: Annotated[str | None, typer.Option(help="As for e2e.")] = None,
    out: Annotated[Path | None, typer.Option(help="Record to add to, as for e2e.")] = None,
    commit: Commit = None,
) -> None:
    """Where a prompt's time goes on a GPU: selection, attention, linear layers and the rest."""
    from reattention_eval.cli.bench_e2e import Wishes, run_parts

    if not run_parts(Wishes(model, dtype, device, out, commit), method, tokens):
        raise typer.Exit(FAILED)


@bench.command()
@readable_errors
def report(
    records: Annotated[list[Path], typer.Argument(help="results/gpu/e2e-*.json")],
    into: Annotated[
        Path | None, typer.Option(help="Document whose marked places get the tables.")
    ] = None,
    bars: Annotated[Path | None, typer.Option(help="bars.json that gets the E bars.")] = None,
) -> None:
    """Table and plot beside each record, made from it alone; nothing where forms disagree."""
    from reattention_eval.cli.bench_e2e import show

    show(records, into, bars)


@bench.command()
@readable_errors
def rates(
    records: Annotated[list[Path], typer.Argument(help="results/gpu/e2e-*.json")],
    into: Annotated[
        Path | None, typer.Option(help="File to write, the package's own if left out.")
    ] = None,
    bars: Annotated[Path | None, typer.Option(help="bars.json that gets E13.")] = None,
) -> None:
    """How fast a card is, for `plan`; prints how far each prompt is from what follows from it."""
    from reattention_eval.cli.bench_rates import make_rates

    make_rates(records, into, bars)
