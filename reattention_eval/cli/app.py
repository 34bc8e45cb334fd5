"""The commands and their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reattention_eval.cli.bench import bench
from reattention_eval.cli.console import FAILED, out, readable_errors, show_problems, show_report
from reattention_eval.cli.export import export
from reattention_eval.cli.runs import compare, status

app = typer.Typer(
    name="reattention-eval",
    help="Long-context methods on real models, through OpenCompass.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
app.add_typer(bench, name="bench")
app.add_typer(export, name="export")


@app.callback()
def _root() -> None:
    """Long-context methods on real models, through OpenCompass."""


@app.command()
@readable_errors
def demo(
    model: Annotated[
        str | None, typer.Option(help="Folder, hub id or embedded model, not smollm2-135m.")
    ] = None,
    lengths: Annotated[str | None, typer.Option(help="Prompt lengths, e.g. 6144,12288.")] = None,
    depths: Annotated[str | None, typer.Option(help="Depths in percent, e.g. 10,50,90.")] = None,
    repeats: Annotated[int | None, typer.Option(help="Prompts a length and depth.", min=1)] = None,
    methods: Annotated[str | None, typer.Option(help="Methods, e.g. full,reattention.")] = None,
    work_dir: Annotated[Path, typer.Option(help="Where runs are put.")] = Path("outputs/demo"),
) -> None:
    """Needle in a haystack inside and beyond the embedded model's window, three methods."""
    from reattention_eval.cli.demo import run_demo

    choices = {
        "MODEL": model, "LENGTHS": lengths, "DEPTHS": depths,
        "REPEATS": None if repeats is None else str(repeats), "METHODS": methods,
    }  # fmt: skip
    status = run_demo({key: value for key, value in choices.items() if value}, work_dir)
    raise typer.Exit(status)


@app.command()
@readable_errors
def ask(
    file: Annotated[Path, typer.Argument(help="A text file of any length.")],
    question: Annotated[
        str | None,
        typer.Argument(
            help="About it. Further ones are typed at a terminal; without a terminal and without "
            "QUESTION, they are the lines of stdin."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Folder, hub id or embedded model, not smollm2-135m.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="With settings as reattention:local_size=2048,max_spans=64.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Of an answer.", min=1)] = 256,
    save: Annotated[
        Path | None, typer.Option(help="Folder that keeps what was read, for --load.")
    ] = None,
    load: Annotated[
        Path | None,
        typer.Option(help="Folder of --save: the text is not read again, or from where it ended."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of weights and cache.")] = "auto",
    device: Annotated[
        str | None,
        typer.Option(help="cuda:1, cpu, or auto (layers over all GPUs). A GPU where there is one."),
    ] = None,
    cache: Annotated[
        str,
        typer.Option(
            help="Where keys and values are: device, values_on_host, host, or auto (what has room)."
        ),
    ] = "device",
    encoding: Annotated[str, typer.Option(help="Of the file.")] = "utf-8",
) -> None:
    """Read a text once, then answer questions about it. Ctrl-C while it reads keeps what was read;
    while it answers, it ends the answer."""
    from reattention_eval.cli.ask import Wishes
    from reattention_eval.cli.ask import ask as run

    status = run(
        Wishes(
            file, question, model, method, max_new_tokens, save, load, dtype, device, cache,
            encoding,
        )
    )  # fmt: skip
    raise typer.Exit(status)


@app.command()
@readable_errors
def prepare(
    what: Annotated[
        str,
        typer.Argument(
            help="`demo` (the model and the essays), `smoke` (tiny checkpoints of nine models), "
            "`longbench`, `leval`, `infinitebench`, `needle`, `ruler`, or `all` these benchmarks; "
            "`model NAME` for an embedded model."
        ),
    ],
    model: Annotated[
        str | None, typer.Argument(help="Behind `model`: qwen2.5-coder-1.5b-q4, for instance.")
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of the data, if not $REATTENTION_DATA or the cache."),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Import from this folder or zip instead of downloading."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only verify; status 1 where something is amiss.")
    ] = False,
) -> None:
    """Fetch what evaluations need, once; afterwards nothing touches the network."""
    from reattention_eval.cli.prepare import prepare_named

    if not prepare_named(what, model, data_dir, source, check):
        raise typer.Exit(FAILED)


@app.command()
@readable_errors
def methods() -> None:
    """The methods that configurations and `--methods` can name."""
    from reattention_eval.cli.tables import methods_table

    out.print(methods_table())


@app.command()
@readable_errors
def doctor() -> None:
    """Say what this machine has, what is missing, and the cure."""
    from reattention_eval.cli.doctor import examine

    if not examine():
        raise typer.Exit(FAILED)


@app.command()
@readable_errors
def report(
    runs: Annotated[
        list[Path], typer.Argument(help="A run's directory, or the one that holds runs; several.")
    ],
    check: Annotated[
        bool,
        typer.Option("--check", help="Only hold its files against the schema of docs/records.md."),
    ] = False,
    html: Annotated[
        bool, typer.Option("--html", help="Also report.html: one file, opens from disk.")
    ] = False,
    by_family: Annotated[
        bool,
        typer.Option(
            "--by-family", help="Methods of one family under each other, and a plot of them."
        ),
    ] = False,
    times: Annotated[
        bool,
        typer.Option(
            "--times/--no-times",
            help="Seconds in the tables: of no method where several processes shared a GPU.",
        ),
    ] = True,
    into: Annotated[
        Path | None,
        typer.Option(
            "--into",
            "-o",
            help="Folder of the report, RUN/report if left out, report of several runs.",
        ),
    ] = None,
) -> None:
    """Make tables and pictures again from the files of one run, or of several side by side."""
    from reattention_eval.report import build_joint_report, build_report, latest_work_dir

    if check:
        from reattention_eval.cli.check import show_check

        if not all([show_check(latest_work_dir(run)) for run in runs]):
            raise typer.Exit(FAILED)
        return
    if len(runs) == 1 and into is None and times and not by_family:
        made = build_report(latest_work_dir(runs[0]), page=html)
    else:
        into = into or (latest_work_dir(runs[0]) if len(runs) == 1 else Path()) / "report"
        made = build_joint_report(runs, into, page=html, by_family=by_family, times=times)
    show_report(made)
    if made.problems:
        raise typer.Exit(FAILED)


@app.command()
@readable_errors
def curve(
    work_dirs: Annotated[
        list[Path], typer.Argument(help="Runs' directories, or those that hold runs.")
    ],
    folder: Annotated[Path, typer.Option("--out", help="Folder of curve.png and curve.csv.")],
) -> None:
    """Score against length: needles, RULER and perplexity by position, a line a method."""
    from reattention_eval.report.curve import draw_read_curve
    from reattention_eval.report.joined import read_runs

    cells = read_runs(work_dirs)
    for path in draw_read_curve(cells, work_dirs, folder):
        out.print(str(path.resolve()), soft_wrap=True, markup=False)
    if show_problems(cells):
        raise typer.Exit(FAILED)


@app.command()
@readable_errors
def answers(
    work_dirs: Annotated[
        list[Path], typer.Argument(help="Runs' directories, or those that hold runs.")
    ],
    file: Annotated[Path, typer.Option("--out", help="The Markdown file to write.")],
    samples: Annotated[int, typer.Option(help="Samples of each dataset.", min=1)] = 1,
) -> None:
    """What a model really answered, sample by sample, under every method."""
    from reattention_eval.report import latest_work_dir
    from reattention_eval.report.answers import answers_page
    from reattention_eval.report.run import read_run

    runs = [(path, read_run(path)) for path in map(latest_work_dir, work_dirs)]
    page = answers_page(runs, work_dirs, samples)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page, encoding="utf-8")
    out.print(str(file.resolve()), soft_wrap=True, markup=False)
    if show_problems([cell for _, cells in runs for cell in cells]):
        raise typer.Exit(FAILED)


@app.command()
@readable_errors
def slurm(
    config: Annotated[Path, typer.Argument(help="An eval configuration, configs/eval_*.py.")],
    partition: Annotated[
        str | None, typer.Option("--partition", "-p", help="SLURM's partition.")
    ] = None,
    work_dir: Annotated[
        Path | None, typer.Option("--work-dir", "-w", help="Where runs are put.")
    ] = None,
    reuse: Annotated[
        str | None,
        typer.Option("--reuse", "-r", help="Go on with this run: its timestamp, or latest."),
    ] = None,
    datasets_per_task: Annotated[
        int, typer.Option(help="Datasets of one array element (one load of the model).", min=1)
    ] = 1,
    at_once: Annotated[
        int | None, typer.Option(help="Elements of one array that may run together.", min=1)
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", help="A further word for sbatch, e.g. -o --time=12:00:00."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List every job and submit nothing.")
    ] = False,
) -> None:
    """Submit an evaluation as SLURM batch jobs: an array a model, then the tables."""
    from reattention_eval.cli.slurm import Wishes, submit

    wishes = Wishes(partition, at_once, datasets_per_task, tuple(option or ()))
    submit(config, work_dir, reuse, wishes, dry_run)


@app.command()
@readable_errors
def plan(
    model: Annotated[str, typer.Option(help="Folder of a checkpoint, embedded model, or hub id.")],
    length: Annotated[
        str, typer.Option(help="Tokens of prompt and answer, as 131072, 128K or 1M.")
    ],
    method: Annotated[
        list[str] | None, typer.Option(help="Method; may be given several times. All if left out.")
    ] = None,
    gpu: Annotated[
        str, typer.Option(help="h100-80g, h200, a100-80g, or auto: this machine's.")
    ] = "auto",
    gpus: Annotated[int, typer.Option(help="GPUs that layers are spread over.", min=1)] = 1,
    tensor_parallel: Annotated[
        int, typer.Option(help="GPUs that attention heads are spread over.", min=1)
    ] = 1,
    dtype: Annotated[str, typer.Option(help="Of weights and cache.")] = "bfloat16",
    gpu_memory: Annotated[
        float | None,
        typer.Option(
            help="GiB of one GPU, in place of the card's own.", envvar="REATTENTION_GPU_MEMORY"
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Prompts at once.", min=1)] = 1,
    weight_bits: Annotated[
        float | None, typer.Option(help="Of a weight, where they are quantised: 8, or 4.5.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One object, for programs.")] = False,
) -> None:
    """Memory of a prompt tier by tier, time to its first token, and the longest that fits."""
    from reattention_eval.cli.plan import gpu_of, show_plan, token_count
    from reattention_eval.efficiency import Placement
    from reattention_eval.methods import list_methods

    placement = Placement(gpus, tensor_parallel, dtype)
    chosen = method or list_methods()
    card = gpu_of(gpu, gpu_memory)
    fits = show_plan(
        model, token_count(length), chosen, placement=placement, gpu=card, rows=batch_size,
        weight_bits=weight_bits, as_json=json,
    )  # fmt: skip
    if not (all(fits) if method else any(fits)):  # those asked for, or of all of them any
        raise typer.Exit(FAILED)


for _command in (compare, status):
    app.command()(_command)
