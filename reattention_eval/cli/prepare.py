"""Fetching models and data ahead of a run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich.table import Table
from rich.text import Text

from reattention_eval.checkpoints import EMBEDDED_MODELS, ensure_embedded_model
from reattention_eval.checkpoints.embedded_models import DEFAULT_MODEL
from reattention_eval.checkpoints.miniature import miniature_folder, write_miniatures
from reattention_eval.cli.console import err, out
from reattention_eval.datasets import load_haystack
from reattention_eval.datasets.data_dir import VARIABLE, data_dir
from reattention_eval.datasets.prepare import (
    FETCHED,
    MISSING,
    WRONG,
    Finding,
    Local,
    check,
    load_sources,
    prepare,
    select,
)
from reattention_eval.errors import ConfigError


def _say(line: str) -> None:
    out.print(line, soft_wrap=True, markup=False)


def fetch_model(name: str = DEFAULT_MODEL) -> None:
    """An embedded model, into the cache."""
    _say(f"model: {ensure_embedded_model(name, say=_say)}")


def fetch_essays() -> None:
    """The essays that needles are hidden in, into the cache."""
    haystack = load_haystack("essays")
    _say(f"text: {haystack.name}, {len(haystack.text):,} characters")


def fetch_demo() -> None:
    """Everything configs/eval_demo.py needs."""
    fetch_model()
    fetch_essays()


def write_smoke() -> None:
    """The tiny random checkpoints of configs/eval_models_smoke.py, into the cache."""
    made = write_miniatures(miniature_folder())
    _say(f"smoke: {len(made) - 1} random checkpoints and a text in {miniature_folder()}")


# sets that are no benchmark's files
_OWN = {"demo": fetch_demo, "smoke": write_smoke}


def prepare_named(
    name: str,
    model: str | None = None,
    folder: Path | None = None,
    source: Path | None = None,
    check_only: bool = False,
) -> bool:
    """Fetch or check the named set, and say what was done; True if all of it is ready.

    Args:
        model: the embedded model, where `name` is "model".

    Raises:
        ConfigError: no such set, or options that do not fit together.
        DataError: the record of the data folder is damaged.
    """
    if model and name != "model":
        raise ConfigError(f"{model!r} is one word too many behind {name!r}.")
    if name in _OWN or name == "model":
        if folder or source or check_only:
            raise ConfigError(f"--data-dir, --from and --check are for benchmarks, not for {name}.")
        if name != "model":
            _OWN[name]()
        elif model:
            fetch_model(model)
        else:
            raise ConfigError(f"which model? There are: {', '.join(EMBEDDED_MODELS)}.")
        return True
    sources = load_sources()
    if name not in (*sources, "all"):
        there = ", ".join([*_OWN, "model", *sources])
        raise ConfigError(f"nothing called {name!r} to prepare; there are: {there}, all.")
    if check_only and source:
        raise ConfigError("--check only looks at what is there; leave --from out.")
    chosen = folder.expanduser().resolve() if folder else data_dir()
    local = Local(source.expanduser()) if source else None
    benchmarks = select(name, sources)
    findings: list[Finding] = []
    done = (
        ((b, check(b, chosen)) for b in benchmarks)
        if check_only
        else prepare(benchmarks, chosen, local=local, say=_say)
    )
    for benchmark, found in done:
        _say(_summary(benchmark.name, found, check_only))
        findings += found
    # a text that two benchmarks need is told once
    by_key = {f.file.key: f for f in findings}
    problems = [f for f in by_key.values() if f.state in (MISSING, WRONG)]
    if problems and check_only:
        out.print(_table(problems))
        names = dict.fromkeys(f.file.benchmark for f in problems)
        _say("To mend it: " + "; ".join(f"reattention-eval prepare {n}" for n in names))
    elif problems:
        for (name, state, detail), files in _fates(problems).items():
            line = f"{state}: {name}/{', '.join(files)}: {detail}"
            err.print(line, style="red", markup=False, soft_wrap=True)
        if local:
            _say("Import the rest from where it is, or leave --from out to download it.")
    elif chosen != data_dir():
        _say(f"the loaders look in {data_dir()}; for this folder set {VARIABLE}={chosen}")
    return not problems


def _summary(name: str, findings: list[Finding], checked: bool) -> str:
    states = Counter(f.state for f in findings)
    ready = len(findings) - states[MISSING] - states[WRONG]
    places = sorted({str(f.path.parent) for f in findings})
    line = f"{name}: {ready} of {len(findings)} files ready in {', '.join(places)}"
    if states[FETCHED]:
        line += f", {states[FETCHED]} of them new"
    elif ready == len(findings):
        line += ", all as they should be" if checked else ", nothing to do"
    notes = [f"  {f.file.name}: {f.detail}" for f in findings if f.state == FETCHED and f.detail]
    return "\n".join([line, *notes])


def _fates(problems: list[Finding]) -> dict[tuple[str, str, str], list[str]]:
    """The files of each benchmark, state and reason."""
    fates: dict[tuple[str, str, str], list[str]] = {}
    for f in problems:
        fates.setdefault((f.file.benchmark, f.state, f.detail), []).append(f.file.name)
    return fates


def _table(problems: list[Finding]) -> Table:
    table = Table()
    for column in ("benchmark", "files", "state", "found"):
        table.add_column(column, overflow="fold")
    for (benchmark, state, detail), names in _fates(problems).items():
        table.add_row(benchmark, ", ".join(names), state, Text(detail))
    return table
