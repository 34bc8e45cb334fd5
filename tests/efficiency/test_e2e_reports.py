"""What of a record is reported: forms that agree, and bars beside the fastest full attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from reattention_eval.efficiency.e2e.agreement import digest, disagreements
from reattention_eval.efficiency.e2e.bars import bars_of
from reattention_eval.efficiency.e2e.record import E2ERecord
from reattention_eval.efficiency.e2e.results import columns, figure_of
from reattention_eval.efficiency.e2e.table import markdown, write_tables
from reattention_eval.efficiency.e2e.words import said
from reattention_eval.errors import DataError
from reattention_kernels.bench.rules import RULES, value_from


def logits(seed: int, noise: float = 0.0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    row = torch.randn(1, 500, generator=generator)
    return digest(row + noise * torch.randn(1, 500))


def cell(form: str, *runs: dict[str, Any], **more: Any) -> dict[str, Any]:
    base = {"form": form, "tokens": 9, "full": True, "whole": False, "within_scope": True}
    return {**base, "runs": [{"logits": run} for run in runs], **more}


def test_forms_must_agree() -> None:
    same = [cell("full", logits(0)), cell("whole-cudnn", logits(0, 0.01), whole=True)]
    assert disagreements(same, "bfloat16") == []
    other = cell("reattention", logits(1), full=False)
    found = disagreements([*same, other], "bfloat16")
    assert len(found) == 2
    assert "full and reattention at 9: logits differ by" in found[0]
    beyond = cell("reattention", logits(1), full=False, within_scope=False)
    assert disagreements([*same, beyond], "bfloat16") == []
    assert disagreements([same[0], cell("x", logits(0, 0.05))], "float32")


def test_repeats_must_agree_and_ours_to_the_bit() -> None:
    beyond = dict(full=False, within_scope=False)
    near = logits(0, 1e-4)
    assert disagreements([cell("reattention", logits(0), near, **beyond)], "bfloat16")
    assert not disagreements([cell("whole-cudnn", logits(0), near, whole=True)], "bfloat16")
    assert disagreements([cell("whole-cudnn", logits(0), logits(1), whole=True)], "bfloat16")


def test_a_clear_best_token_must_be_the_same() -> None:
    row = torch.zeros(1, 500)
    row[0, 3], row[0, 4] = 9.0, 8.99
    close = row.clone()
    close[0, 3], close[0, 4] = 8.99, 9.0
    assert not disagreements([cell("a", digest(row)), cell("b", digest(close))], "bfloat16")
    row[0, 4], close[0, 3] = 0.0, 0.0
    assert disagreements([cell("a", digest(row)), cell("b", digest(close))], "bfloat16")


def llama(tokens: int, environment: dict[str, Any], **times: dict[str, float]) -> E2ERecord:
    data: dict[str, Any] = {
        "model": "LLaMA3.1-8B", "weights": "random, seed 0", "dtype": "bfloat16", "shape": {},
        "weight_bytes": 1, "device": "a card", "environments": [environment], "cells": [],
    }  # fmt: skip
    for form, figures in times.items():
        form = form.replace("_", "-") if form.startswith("whole") else form
        made = cell(form, logits(0), tokens=tokens, environment=0, whole=form.startswith("whole"))
        made |= {"full": form != "reattention", "within_scope": False}
        made["runs"] = [{**made["runs"][0], **figures}]
        data["cells"].append(made)
    return E2ERecord(None, data)


CARD = {
    "device": "a card", "uuid": "GPU-0", "versions": {"torch": "2", "transformers": "5"},
    "date": "2026-11-29", "commit": "0" * 40, "source": "1" * 40, "package": "2" * 40,
}  # fmt: skip


def test_nothing_is_reported_where_forms_disagree() -> None:
    times = {"ttft_seconds": 1.0}
    record = llama(131_072, CARD, full=times, whole_cudnn=times)
    assert markdown(record)
    record.data["cells"][1]["runs"][0]["logits"] = logits(1)
    for make in (markdown, columns, lambda record: bars_of(record, print)):
        with pytest.raises(DataError, match="nothing is reported"):
            make(record)


def test_bars_compare_with_the_fastest_full_attention() -> None:
    record = llama(
        131_072, CARD,
        reattention={"ttft_seconds": 8.0, "tpot_seconds": 0.010, "above_bytes": 3 * 2**29},
        full={"ttft_seconds": 12.0, "tpot_seconds": 0.012, "above_bytes": 2**29},
        whole_cudnn={"ttft_seconds": 10.0}, whole_flash={"ttft_seconds": 17.0},
    )  # fmt: skip
    entries = {entry["id"]: entry for entry in bars_of(record, print)}
    assert {name: entry["value"] for name, entry in entries.items()} == {
        "E1": pytest.approx(1.25), "E3": pytest.approx(1.2), "E12": pytest.approx(1.5),
    }  # fmt: skip
    assert entries["E1"]["raw"]["prompt"]["reference"] == "whole-cudnn"
    assert all(value_from(entry) == entry["value"] for entry in entries.values())
    assert RULES["E12"].met(1.5)
    assert not RULES["E12"].met(1.6)
    assert "**1.25x**" in markdown(record)


def test_a_table_says_where_others_kept_the_host_busy() -> None:
    times = {"ttft_seconds": 1.0, "host_busy": 0.04}
    record = llama(131_072, CARD, full=times, reattention={**times, "host_busy": None})
    assert "beside other work" not in markdown(record)
    record.data["cells"][0]["runs"].append({**record.data["cells"][0]["runs"][0], "host_busy": 0.4})
    assert "At 131,072 beside other work on up to 40% of the host" in markdown(record)
    assert said(record.data["cells"][0]).endswith("beside other work on 40% of the host")
    assert "host" not in said(record.data["cells"][1])


def test_no_bar_without_its_baseline_or_its_source() -> None:
    times = {"ttft_seconds": 1.0}
    said: list[str] = []
    assert not bars_of(llama(131_072, CARD, reattention=times, full=times), said.append)
    assert "whole-cudnn was not measured" in said[0]
    untraceable = {**CARD, "commit": None}
    record = llama(524_288, untraceable, reattention=times, full=times)
    assert not bars_of(record, said.append)
    record = llama(524_288, CARD, reattention=times, full=times)
    assert [entry["id"] for entry in bars_of(record, print)] == ["E2"]


def test_the_cold_start_is_the_first_prompt_less_the_second() -> None:
    record = llama(1, CARD)
    cold = {"first_seconds": 7.0, "second_seconds": 3.0}
    filled = {"first_seconds": 3.5, "second_seconds": 3.0}
    record.data["cold"] = [
        {"form": "reattention", "tokens": 32_768, "environment": 0, "empty": cold, "filled": filled}
    ]
    (entry,) = bars_of(record, print)
    assert (entry["id"], entry["value"], entry["unit"]) == ("E11", 4.0, "s")


def test_lengths_of_differing_runs_are_not_mixed() -> None:
    """ReAttention of a later commit alone does not hide the run that has both."""
    times = {"ttft_seconds": 2.0}
    record = llama(131_072, CARD, reattention=times, full=times, whole_cudnn=times)
    record.data["environments"].append({**CARD, "commit": "3" * 40})
    alone = llama(131_072, CARD, reattention={"ttft_seconds": 1.0}).data["cells"][0]
    record.data["cells"].append({**alone, "environment": 1})
    (column,) = columns(record)
    assert column.environment["commit"] == "0" * 40
    assert figure_of(column.cells["reattention"], "ttft_seconds") == 2.0


def test_long_answers_have_a_place_of_their_own(tmp_path: Path) -> None:
    """A record of them alone does not take that of the analysis."""
    half = {"seconds": 9.0, "allocated_bytes": 2**30}
    figures = {"ttft_seconds": 8.0, "tpot_seconds": 0.009, "thousands": [half, half]}
    record, page = llama(131_072, CARD, reattention=figures), tmp_path / "page.md"
    record.data["cells"][0]["runs"][0]["above_bytes"] = 2**30
    assert not bars_of(record, print)  # E12 is of the analysis
    marks = [f"<!-- e2e LLaMA3.1-8B, a card{more} -->" for more in ("", ", long answers")]
    page.write_text("\n".join(f"{mark}\n<!-- end -->" for mark in marks))
    write_tables([record], page)
    usual, own = page.read_text().split(marks[1])
    assert usual == f"{marks[0]}\n<!-- end -->\n"
    assert "| reattention | 131,072 | 2,000 | 111.1 | 111.1 | 1.000 | 0.0 |" in own
    assert "fastest full" not in own  # none stands beside it
