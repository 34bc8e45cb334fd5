"""`reattention-eval doctor`: versions, devices, kernels, model and data, each with its cure."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec

from rich.table import Table
from rich.text import Text

from reattention_eval.cli.configs import config_path
from reattention_eval.cli.console import out
from reattention_eval.errors import ReAttentionError

GOOD, OPTIONAL, BAD = "ok", "optional", "missing"
_STYLES = {GOOD: "green", OPTIONAL: "yellow", BAD: "red"}


@dataclass(frozen=True)
class Finding:
    """One line of the examination; `cure` says what to do where something is wanting."""

    what: str
    state: str
    found: str
    cure: str = ""


def examine() -> bool:
    """Print every finding; True unless something necessary is missing."""
    findings = [*_software(), *_devices(), *_cached()]
    table = Table()
    for column in ("", "state", "found", "cure"):
        table.add_column(column, overflow="fold")
    for f in findings:
        table.add_row(f.what, Text(f.state, _STYLES[f.state]), Text(f.found), Text(f.cure))
    out.print(table)
    return all(f.state != BAD for f in findings)


def _software() -> list[Finding]:
    install = 'pip install "reattention-eval[{}]"'
    wanted = (
        ("torch", BAD, "pip install reattention-eval"),
        ("transformers", BAD, 'pip install "transformers>=4.57"'),
        ("opencompass", OPTIONAL, install.format("opencompass")),
        ("matplotlib", OPTIONAL, install.format("report") + " (heat maps)"),
        ("triton", OPTIONAL, install.format("dev") + " (fast kernels on a GPU)"),
        ("flash-attn", OPTIONAL, install.format("flash") + " (not needed: SDPA serves)"),
    )
    found = [Finding("python", GOOD, platform.python_version())]
    for name, state, cure in wanted:
        try:
            found.append(Finding(name, GOOD, metadata.version(name)))
        except metadata.PackageNotFoundError:
            found.append(Finding(name, state, "not installed", cure))
    return found


def _devices() -> list[Finding]:
    if find_spec("torch") is None:
        return []
    import torch

    found = [
        Finding("CPU", GOOD, f"{os.cpu_count()} cores, {torch.get_num_threads()} used by torch")
    ]
    if not torch.cuda.is_available():
        return [*found, Finding("GPU", OPTIONAL, "none seen", "the CPU serves for the demo")]
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        name = torch.cuda.get_device_name(i)
        found.append(
            Finding(f"GPU {i}", GOOD, f"{name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")
        )
    return found


def _cached() -> list[Finding]:
    from reattention_eval.checkpoints import embedded_model_folder
    from reattention_eval.datasets import essays_file

    found = []
    fetch = "reattention-eval prepare demo"
    try:
        folder = embedded_model_folder()
        there = (folder / "config.json").is_file()
        found.append(
            Finding(
                "embedded model", GOOD if there else OPTIONAL, str(folder), "" if there else fetch
            )
        )
        essays = essays_file()
        there = essays.is_file()
        found.append(
            Finding("essays", GOOD if there else OPTIONAL, str(essays), "" if there else fetch)
        )
        space = shutil.disk_usage(folder.parent).free / 2**30
        found.append(Finding("cache disk", GOOD, f"{space:.0f} GiB free"))
    except ReAttentionError as error:
        found.append(Finding("cache", BAD, str(error)))
    try:
        found.append(Finding("configurations", GOOD, str(config_path("eval_demo.py").parent)))
    except ReAttentionError as error:
        found.append(Finding("configurations", BAD, str(error)))
    return found
