"""Who made these predictions: versions, device, commit, checkpoint, method, dataset."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import reattention_eval
from reattention_eval.harness.fingerprint import plain, rows_fingerprint
from reattention_eval.harness.prompt_runner import PromptRunner
from reattention_eval.harness.run_folder import write_whole
from reattention_eval.json_text import read_object
from reattention_eval.methods import Method
from reattention_eval.report.schema import VERSION, migrated

_PACKAGES = (
    "reattention-eval", "torch", "transformers", "opencompass", "numpy", "triton", "flash-attn",
    "flash-attn-3", "fa3-fwd", "torchao", "bitsandbytes", "compressed-tensors", "gptqmodel", "hqq",
    "optimum-quanto",
)  # fmt: skip


def model_part(model: PromptRunner) -> dict[str, Any]:
    """Checkpoint facts, read from the loaded model."""
    config = model.model.config
    return {
        "name": model.name,
        # a folder by its name: where it lies is nobody's business and changes nothing
        "path": Path(model.path).name if Path(model.path).is_dir() else model.path,
        "type": config.model_type,
        "parameters": sum(p.numel() for p in model.model.parameters()),
        "dtype": str(model.model.dtype).removeprefix("torch."),
        "device": str(model.model.device),
        "trained_window": model.trained_window,
        "settings": model.settings(),
        "fingerprint": model.fingerprint(),
    }


def method_part(method: Method) -> dict[str, Any]:
    """The method with every setting, its family, budget in tokens and where it comes from."""
    return {
        "name": method.name,
        "family": method.family,
        "budget": method.budget,
        "settings": method.settings(),
        "source": method.source,
    }


def write_dataset_manifest(
    path: Path, model: PromptRunner, dataset: str, rows: Sequence[Any], inferencer: str
) -> None:
    """The manifest of a dataset that an inferencer of OpenCompass's runs."""
    earlier = environments(path)
    own = {
        "abbr": dataset,
        "n": len(rows),
        "fingerprint": rows_fingerprint([plain(dict(row))] for row in rows),
        "inferencer": inferencer,
    }
    write_whole(
        path,
        {
            "version": VERSION,
            "model": model_part(model),
            "method": method_part(model.method),
            "dataset": own,
            "environment": [*earlier, environment_part()],
        },
    )


def environments(manifest: Path) -> list[Any]:
    """The processes that an earlier manifest names; none where there is no readable one."""
    try:
        return list(migrated(read_object(manifest), manifest)["environment"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


@cache
def environment_part() -> dict[str, Any]:
    """Versions, machine and commit; the same for every dataset of a process."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    versions["python"] = platform.python_version()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "versions": versions,
        "gpus": gpus,
        "cpu": platform.processor() or platform.machine(),
        "cpu_threads": torch.get_num_threads(),
        "commit": _commit(),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    """The checkout's commit, `+changes` if the tree differs from it; outside a checkout what
    REATTENTION_COMMIT says."""
    package = Path(reattention_eval.__file__).resolve().parent
    if not (package.parent / ".git").exists():
        return os.environ.get("REATTENTION_COMMIT", "").strip() or None
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}

    def git(*words: str) -> str:
        run = subprocess.run(
            ["git", "-C", str(package.parent), *words],
            capture_output=True, text=True, timeout=20, env=environment, check=True,
        )  # fmt: skip
        return run.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
