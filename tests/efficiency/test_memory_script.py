"""scripts/gpu_memory.sh without a GPU: what it asks for is what documents and bars wait for."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from typer.testing import CliRunner

from reattention_eval.cli import app, bench_e2e
from reattention_eval.datasets.sources import PLAYS_SHA256
from reattention_eval.efficiency.e2e import models
from reattention_eval.efficiency.e2e.measure import THOUSAND
from reattention_eval.efficiency.e2e.models import about_model
from reattention_eval.efficiency.e2e.record import E2ERecord
from reattention_eval.efficiency.fit import measured
from reattention_eval.efficiency.shape import read_shape

ROOT = Path(__file__).parents[2]
QWEN = "Qwen/Qwen2-1.5B"


def commands(folder: Path, *steps: str) -> list[list[str]]:
    """What the script would have run."""
    said, python = folder / "said", folder / "python"
    python.write_text(f"#!/bin/sh\nprintf '%s\\t' \"$@\" >> {said}\necho >> {said}\n")
    python.chmod(0o755)
    settings = {"PYTHON": str(python), "COMMIT": "c" * 40, "TEXT": "shakespeare.md"}
    subprocess.run(
        [ROOT / "scripts" / "gpu_memory.sh", *steps], env={**os.environ, **settings},
        check=True, capture_output=True,
    )  # fmt: skip
    return [line.split("\t")[:-1] for line in said.read_text().splitlines()]


def test_what_is_measured_has_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(bench_e2e, "run", lambda *words: asked.append(words) or True)
    monkeypatch.setattr(bench_e2e, "text_name", lambda file: f"text of {file} ({PLAYS_SHA256[:8]})")
    monkeypatch.setattr(models, "device_name", lambda device: "NVIDIA H200")
    for words in commands(tmp_path, "text", "long", "int8", "e5", "e6"):
        if words[:2] == ["-m", "reattention_eval"]:
            result = CliRunner().invoke(app, words[2:])
            assert result.exit_code == 0, result.output
    model, page = tiny_model(), (ROOT / "docs/efficiency.md").read_text(encoding="utf-8")
    found = []
    for wishes, grid, effort in asked:
        about = bench_e2e.about_run(wishes, model)
        cells = grid.cells(torch.device("cpu"))
        long = effort.decode >= 2 * THOUSAND
        runs = [{"thousands": [{}]} if long else {}]
        record = E2ERecord(None, {**about, "cells": [{"runs": runs}]})
        assert f"<!-- e2e {record.name} -->" in page
        file = wishes.file(about)
        assert fnmatch(str(file), "results/gpu/e2e-*.json") or file.name == "long-answer.json"
        assert wishes.commit == "c" * 40
        found.append({(form.name, tokens) for form, tokens in cells})
    tiers = ("reattention", "reattention, values_on_host", "reattention, host")
    assert found == [
        {(tier, tokens << 10) for tier in tiers for tokens in (64, 128, 256)},
        {("reattention", 131_072)},
        {(form, tokens << 10) for form in ("reattention", "full") for tokens in (32, 128)},
        {("reattention, auto", 1_048_576)},
        {("reattention, values_on_host", 4_194_304)},
    ]


@pytest.mark.parametrize("name", ["qwen2.5-coder-1.5b-q4", "meta-llama/Llama-3.1-8B"])
def test_a_record_has_the_name_of_its_model(name: str) -> None:
    """Not the word that a command was given for it."""
    known = {"qwen2.5-coder-1.5b-q4": "Qwen2.5-Coder-1.5B-Instruct-Q4_K_M"}
    assert about_model(name, tiny_model())["model"] == known.get(name, "LLaMA3.1-8B")


def test_rates_are_of_random_prompts_and_whole_weights() -> None:
    """`plan` gives no seconds for quantised weights, and a text's prompt of a shape and length is
    that of the shape under another name."""
    run = {
        "ttft_seconds": 1.0, "peak_bytes": 1, "forward_tokens": 8192, "decode_tokens": 64,
        "logits": {"argmax": 1, "margin": 9.0, "sample": [1.0], "bits": "a"},
    }  # fmt: skip
    cell = {
        "form": "reattention", "method": "reattention", "tokens": 131_072, "environment": 0,
        "full": False, "whole": False, "within_scope": False, "settings": {}, "runs": [run],
    }  # fmt: skip

    def record(shape: Any, **more: str) -> E2ERecord:
        about = {"model": "m", "device": "NVIDIA H200", "dtype": "bfloat16"}
        environments = [{"commit": "c" * 40}]
        data = {**about, "shape": shape.as_dict(), "environments": environments, "cells": [cell]}
        return E2ERecord(None, {**data, **more})

    shape = read_shape(QWEN)
    (one,), (other,) = measured(record(shape)), measured(record(shape, prompt="text of a book"))
    assert one.makes_rates and not other.makes_rates
    assert not replace(one, tier="host").makes_rates
    assert not measured(record(replace(shape, weight_bits=8.0)))


def test_memory_is_filled_until_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 30 pages at first, which gets 20 more whenever fewer than 5 are free."""
    path = ROOT / "scripts" / "fill_memory.py"
    spec = importlib.util.spec_from_file_location("fill_memory", path)
    assert spec is not None and spec.loader is not None
    script: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page, total, taken, most = 4096, [30], [0], [128]

    class Taken(bytearray):
        def __mul__(self, size: Any) -> Any:
            taken[0] += size // page
            return bytearray(size)

    def memory(name: str) -> int:
        if total[0] - taken[0] < 5 and total[0] < most[0]:
            total[0] += 20
        assert total[0] > taken[0]  # never the last of it
        return int(total[0] - taken[0]) * page

    monkeypatch.setattr(script, "memory", memory)
    monkeypatch.setattr(script, "LEFT", 2 * page)
    monkeypatch.setattr(script, "PATIENCE", 1.0)
    monkeypatch.setattr(script.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(script, "bytearray", Taken, raising=False)
    assert script.fill(20 * page, page) and taken[0] == 0  # it is there
    assert script.fill(100 * page, page) and 70 < taken[0] < 100
    taken[0], total[0], most[0] = 0, 30, 50
    assert not script.fill(100 * page, page)
    assert taken[0] == total[0] - 3
