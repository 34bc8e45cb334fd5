"""results/gpu/e2e-*.json: what was measured of one model, run by run, as soon as it exists."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import reattention_eval
from reattention_eval.cache import DEVICE
from reattention_eval.efficiency.cards import card_by_name
from reattention_eval.efficiency.e2e.models import device_name
from reattention_eval.errors import ConfigError, DataError
from reattention_eval.json_text import read_object
from reattention_eval.machine_memory import GIB
from reattention_eval.whole_file import write_whole_text
from reattention_kernels.bench import card
from reattention_kernels.bench import record as kernels
from reattention_kernels.causal import attention_of_device

PACKAGES = ("torch", "triton", "transformers", "flash-attn", "fa3-fwd", "torchao")
FOLDER = Path(reattention_eval.__file__).parent
# gpu_memory: bytes of the card that were left to the measurement; prompt: of which text it is; both
# only where that is not all of it and not random tokens
_MODEL = (
    "model", "weights", "dtype", "shape", "weight_bytes", "device", "gpu_memory", "prompt",
)  # fmt: skip

# of a run: the share of the host's processors that other processes kept busy. What waits for the
# host is slower beside them: tokens by 8 to 12 %, launched steps by 1.4 to 1.7 times beside 0.4 to
# 0.6 of one (docs/efficiency.md)
BUSY_HOST, BUSY_SHARE = "host_busy", 0.1


def environment(device: torch.device, commit: str | None) -> dict[str, Any]:
    """Card, versions, what answers full attention, commit and the hashes of both packages; alike
    for runs that compare.

    Where the tree has changes or names no commit, `commit` is None and `untraceable` says why: such
    runs make no bar.
    """
    versions = {
        "python": platform.python_version(),
        "reattention-eval": reattention_eval.__version__,
    }
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    on_gpu = device.type == "cuda"
    found: dict[str, Any] = {
        **(card.facts() if on_gpu else {}),
        "device": device_name(device),
        "attention": attention_of_device(device),
        "cuda": torch.version.cuda if on_gpu else None,
        "versions": versions,
        "date": kernels.today(),
    }
    try:
        found["commit"], found["source"] = kernels.source(commit)
        found["package"] = kernels.source(commit, FOLDER)[1]
    except ValueError as error:
        found |= {"commit": None, "untraceable": str(error)}
    return found


class E2ERecord:
    """One model's record.

    `environments` are listed once each; a cell is a form at a length in one of them with its cache
    in one tier (that says `cache`; where it does not, on the device), with `runs` (a dict for each
    repeat), or `out_of_memory` (with `host_full` where it was the host's, which a later call tries
    again), or `failed`.
    """

    def __init__(self, path: Path | None, data: dict[str, Any]) -> None:
        self.path, self.data = path, data

    @classmethod
    def begin(cls, path: Path | None, about: dict[str, Any]) -> E2ERecord:
        """A new record, or the one in `path`, to which is added.

        Raises:
            ConfigError: that one is of another model or device.
            DataError: it cannot be read.
        """
        about = json.loads(json.dumps(about))
        if path is None or not path.exists():
            return cls(path, {**about, "environments": [], "cells": []})
        held = read(path)
        other = [name for name in _MODEL if held.data.get(name) != about.get(name)]
        if other:
            raise ConfigError(
                f"{path} is of another model or device ({other[0]}: {held.data.get(other[0])}, now "
                f"{about.get(other[0])}); give another --out."
            )
        return held

    def environment(self, found: dict[str, Any]) -> int:
        """Its number; one that differs by the day alone is the same."""
        found = json.loads(json.dumps(found))

        def same(held: dict[str, Any]) -> bool:
            return {**held, "date": ""} == {**found, "date": ""}

        listed: list[dict[str, Any]] = self.data["environments"]
        for number, held in enumerate(listed):
            if same(held):
                return number
        listed.append(found)
        return len(listed) - 1

    def cell(self, form: str, tokens: int, environment: int, cache: str = DEVICE) -> dict[str, Any]:
        """The cell, made where there is none."""
        made = {"form": form, "cache": cache, "tokens": tokens, "environment": environment}
        for cell in self.data["cells"]:
            held = {"cache": DEVICE, **cell}
            if all(held[name] == value for name, value in made.items()):
                return cell  # type: ignore[no-any-return]
        made["runs"] = []
        self.data["cells"].append(made)
        return made

    def cells(self, tokens: int, environment: int) -> list[dict[str, Any]]:
        return [
            cell
            for cell in self.data["cells"]
            if (cell["tokens"], cell["environment"]) == (tokens, environment)
        ]

    @property
    def name(self) -> str:
        """Model, device and what is special, as documents mark the place of its tables."""
        found = f"{self.data['model']}, {self.data['device']}"
        if memory := self.data.get("gpu_memory"):
            found += f", {memory / GIB:.4g} GiB of it"
        if self.data["weights"].endswith("int8"):
            found += ", int8 weights"
        if self.data.get("prompt"):
            found += f", {self.data['prompt']}"
        return f"{found}, long answers" if self.long_answers else found

    @property
    def long_answers(self) -> bool:
        """Whether it holds nothing but answers that are kept by thousands."""
        runs = [run for cell in self.data["cells"] for run in cell["runs"]]
        return bool(runs) and all(run.get("thousands") for run in runs)

    @property
    def memory(self) -> int | None:
        """Bytes of the card that the measurement had; None for a card that is not known."""
        known = card_by_name(self.data["device"])
        return self.data.get("gpu_memory") or (known.memory if known else None)

    @property
    def lengths(self) -> list[int]:
        return sorted({cell["tokens"] for cell in self.data["cells"]})

    def save(self) -> None:
        """Whole or not at all: a run may be cut short at any time."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole_text(self.path, json.dumps(self.data, indent=1) + "\n")


def read(path: Path) -> E2ERecord:
    """The record in a file.

    Raises:
        DataError: it is missing or no such record.
    """
    try:
        data = read_object(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); make it with: reattention-eval bench e2e"
        ) from error
    if not all(isinstance(data.get(name), list) for name in ("environments", "cells")):
        raise DataError(f"{path} is no record of `reattention-eval bench e2e`; name one of its.")
    return E2ERecord(path, data)
