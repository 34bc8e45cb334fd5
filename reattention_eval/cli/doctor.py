"""`reattention-eval doctor`: what this machine has, what is missing or broken, and the cure.

Status 0 where everything necessary is there: what is optional may be absent. Status 1 where
something necessary is absent, or something that is there is broken and would fail a run.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec

from rich.table import Table
from rich.text import Text

from reattention_eval.cli.configs import config_path
from reattention_eval.cli.console import out
from reattention_eval.cli.findings import BAD, GOOD, OPTIONAL, Finding
from reattention_eval.cli.inventory import cached, data, models
from reattention_eval.errors import ReAttentionError
from reattention_eval.machine_memory import GIB
from reattention_eval.versions import check_transformers

_STYLES = {GOOD: "green", OPTIONAL: "yellow", BAD: "red"}
_PYTHONS = ((3, 10), (3, 13))  # first that works, first that does not


def examine() -> bool:
    """Print every finding; True unless something necessary is missing or broken."""
    findings = [
        *_software(), *_devices(), _slurm(), *cached(), _configurations(), *models(), *data(),
    ]  # fmt: skip
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
        ("torch", BAD, "pip install torch"),
        ("transformers", BAD, 'pip install "transformers>=4.57,<6"'),
        ("opencompass", OPTIONAL, install.format("opencompass") + " (to run configs/eval_*.py)"),
        ("triton", OPTIONAL, install.format("dev") + " (fast kernels on a GPU)"),
        (
            "fa3-fwd",
            OPTIONAL,
            install.format("flash") + " (FlashAttention-3, for Hopper GPUs)",
        ),
        ("matplotlib", OPTIONAL, install.format("report") + " (heat maps)"),
    )
    return [_python(), *(_package(*entry) for entry in wanted), *_conflicts()]


def _python() -> Finding:
    fits = _PYTHONS[0] <= sys.version_info[:2] < _PYTHONS[1]
    cure = "" if fits else "use Python 3.10 to 3.12: opencompass needs numpy 1"
    return Finding("python", GOOD if fits else BAD, platform.python_version(), cure)


def _package(name: str, without: str, cure: str) -> Finding:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name, without, "not installed", cure)
    if name == "transformers":
        try:
            check_transformers()
        except ReAttentionError as error:
            return Finding(name, BAD, str(error), cure)
    return Finding(name, GOOD, version)


def _conflicts() -> list[Finding]:
    """pyarrow 26 refuses the numpy that opencompass forces, and neither declares it."""
    try:
        metadata.version("opencompass")
        pyarrow = metadata.version("pyarrow")
    except metadata.PackageNotFoundError:
        return []
    if int(pyarrow.split(".")[0]) < 26:
        return []
    return [Finding("pyarrow", BAD, f"{pyarrow} beside opencompass", 'pip install "pyarrow<26"')]


def _devices() -> list[Finding]:
    if find_spec("torch") is None:
        return []
    import torch

    from reattention_eval.efficiency import accelerator_memory, main_memory
    from reattention_kernels.causal import causal_backends

    memory = main_memory()
    room = f", {memory / GIB:.0f} GiB of memory free" if memory else ""
    threads = torch.get_num_threads()
    found = [Finding("CPU", GOOD, f"{os.cpu_count()} cores, {threads} used by torch{room}")]
    gpus = accelerator_memory()
    if not gpus:
        return [*found, _no_gpu(torch.version.cuda)]
    for i, (free, total) in enumerate(gpus):
        major, minor = torch.cuda.get_device_capability(i)
        name = f"{torch.cuda.get_device_name(i)} (compute capability {major}.{minor})"
        found.append(
            Finding(f"GPU {i}", GOOD, f"{name}, {free / GIB:.0f} of {total / GIB:.0f} GiB free")
        )
        forms = "; ".join(f"{form}: {state}" for form, state in causal_backends(i).items())
        found.append(Finding(f"attention on GPU {i}", GOOD, forms))
    return found


def _no_gpu(cuda: str | None) -> Finding:
    if shutil.which("nvidia-smi") is None:
        return Finding("GPU", OPTIONAL, "none seen", "the CPU serves for the demo")
    build = f"is built for CUDA {cuda}" if cuda else "is built without CUDA"
    return Finding(
        "GPU",
        BAD,
        f"nvidia-smi is here, but torch sees no GPU; it {build}",
        "install the build of torch for the driver that nvidia-smi shows; unset "
        "CUDA_VISIBLE_DEVICES if it is empty",
    )


def _slurm() -> Finding:
    if shutil.which("sbatch") is None:
        return Finding("SLURM", OPTIONAL, "no sbatch here", "only for clusters: docs/slurm.md")
    asked = subprocess.run(["sinfo", "-h", "-o", "%P"], capture_output=True, text=True)
    if asked.returncode:
        cure = "set SLURM_CONF, or ask on a login node of the cluster"
        return Finding("SLURM", OPTIONAL, "sbatch is here, but no cluster answers", cure)
    partitions = ", ".join(dict.fromkeys(asked.stdout.split())) or "none"
    return Finding("SLURM", GOOD, f"partitions: {partitions}")


def _configurations() -> Finding:
    try:
        return Finding("configurations", GOOD, str(config_path("eval_demo.py").parent))
    except ReAttentionError as error:
        return Finding("configurations", BAD, str(error), "pip install --force-reinstall")
