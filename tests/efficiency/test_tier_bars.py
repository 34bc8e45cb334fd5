"""Bars E5 to E8, of records made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from reattention_eval import ReAttention
from reattention_eval.efficiency.e2e.bars import bars_of
from reattention_eval.efficiency.e2e.parts import part_of, shares
from reattention_eval.efficiency.e2e.record import E2ERecord
from reattention_eval.efficiency.shape import read_shape
from reattention_eval.efficiency.work import prompt_work
from reattention_kernels.bench.rules import RULES, value_from

LLAMA_8B, QWEN = read_shape("meta-llama/Llama-3.1-8B"), read_shape("Qwen/Qwen2-1.5B")
GIB = 2**30

CARD = {
    "device": "NVIDIA H200", "uuid": "GPU-0", "versions": {"torch": "2", "transformers": "5"},
    "date": "2026-11-29", "commit": "0" * 40, "source": "1" * 40, "package": "2" * 40,
}  # fmt: skip
LOGITS = {"argmax": 1, "margin": 9.0, "sample": [1.0], "bits": "a"}


def record_of(name: str, shape: Any, cells: list[dict[str, Any]], **more: Any) -> E2ERecord:
    data: dict[str, Any] = {
        "model": name, "weights": "random, seed 0", "dtype": "bfloat16", "shape": shape.as_dict(),
        "weight_bytes": 1, "device": "NVIDIA H200", "environments": [CARD], "cells": [], **more,
    }  # fmt: skip
    for cell in cells:
        figures = {"logits": LOGITS, "decode_tokens": 32, **cell.pop("run")}
        base = {"form": "reattention", "method": "reattention", "full": False, "whole": False}
        base |= {"within_scope": False, "environment": 0, "settings": {}, "runs": [figures]}
        data["cells"].append({**base, **cell})
    return E2ERecord(None, data)


def test_bars_of_80_gb() -> None:
    ceiling = {"0": {"ceiling_ms": 1.0, "ceiling_work": 6.6e11}}
    cells = [
        {"tokens": 1 << 20, "cache": "auto", "run": {"ttft_seconds": 300.0, "host_bytes": 9e10}},
        {"tokens": 1 << 20, "cache": "host", "run": {"ttft_seconds": 200.0, "host_bytes": 2e11}},
    ]
    known = {"gpu_memory": int(79.1 * GIB), "ceilings": ceiling}
    record = record_of("LLaMA3.1-8B", LLAMA_8B, cells, **known)
    (entry,) = bars_of(record, print)
    work = prompt_work(LLAMA_8B, ReAttention(), 1 << 20)
    assert entry["value"] == pytest.approx(300 / ((work.linear + work.scores) / 6.6e14))
    assert entry["id"] == "E5" and entry["raw"]["prompt"]["cache"] == "auto"  # 128 GB hold it
    assert 1 < entry["value"] < 1.5 and RULES["E5"].met(1.29) and not RULES["E5"].met(1.31)
    assert value_from(entry) == entry["value"]
    whole = record_of("LLaMA3.1-8B", LLAMA_8B, [dict(c, run={}) for c in cells], ceilings=ceiling)
    assert not [e for e in bars_of(whole, lambda line: None) if e["id"] == "E5"]
    long = [
        {"tokens": n, "cache": "values_on_host", "run": {"ttft_seconds": 1.0}}
        for n in (1 << 20, 2_000_000)
    ]
    (entry,) = bars_of(record_of("Qwen2-1.5B", QWEN, long, **known), print)
    assert (entry["id"], entry["value"], entry["unit"]) == ("E6", 2_000_000, "tokens")
    assert RULES["E6"].met(2_000_000)


def test_bars_of_values_on_the_host() -> None:
    cells = [
        {"tokens": 131_072, "run": {"ttft_seconds": 1.9, "tpot_seconds": 0.004}},
        {"tokens": 131_072, "cache": "values_on_host",
         "run": {"ttft_seconds": 2.0, "tpot_seconds": 0.005, "value_hits": 0.8}},
    ]  # fmt: skip
    text = {"weights": "of the checkpoint", "prompt": "text of essays.txt"}
    entries = bars_of(record_of("coder", QWEN, cells, **text), print)
    assert {entry["id"]: entry["value"] for entry in entries} == {
        "E7": pytest.approx(0.8), "E7p": pytest.approx(0.95),
    }  # fmt: skip
    rule = {"form": "reattention:last_tokens=48", "settings": {"last_tokens": 48}}
    others = [{**cell, **rule, "run": {"ttft_seconds": 1.0, "tpot_seconds": 1.0}} for cell in cells]
    assert not bars_of(record_of("coder", QWEN, others, **text), lambda line: None)
    cells = [{"tokens": 131_072, "run": {"ttft_seconds": 1.9}} for _ in range(2)]
    assert not bars_of(record_of("other", LLAMA_8B, cells, **text), lambda line: None)


def test_kernels_are_told_apart() -> None:
    names = {
        "best_blocks_hopper": "selection", "rescore_hopper": "selection",
        "count_votes_kernel": "selection", "mark_kernel": "selection",
        "causal_attention_kernel": "view attention", "gather_view_kernel": "view",
        "void flash::device_kernel<FlashAttnFwdSm90>": "view attention",
        "nvjet_tst_256x128_64x4_2x1_v_bz_coopA_TNN": "linear layers", "rms_norm_kernel": "norms",
        "sm90_xmma_gemm_bf16bf16_bf16f32": "linear layers", "rotate_query_kernel": "rotation",
        "void at::native::vectorized_elementwise_kernel<4, at::native::silu_kernel>":
            "MLP's products",
        "Memcpy DtoD (Device -> Device)": "other",
    }  # fmt: skip
    assert {name: part_of(name) for name in names} == names
    found = shares([("rescore_hopper", 3, 40.0), ("nvjet", 5, 30.0), ("copy", 1, 10.0)], 100.0)
    assert found["outside_ms"] == 30.0
    assert found["kernels_ms"] == 80.0
    assert [kernel["name"] for kernel in found["kernels"]] == ["rescore_hopper", "nvjet", "copy"]
    record = record_of("LLaMA3.1-8B", LLAMA_8B, [])
    record.data["parts"] = [{"form": "reattention", "tokens": 131_072, "environment": 0, **found}]
    (entry,) = bars_of(record, print)
    assert (entry["id"], entry["value"]) == ("E8", 0.3)
    assert RULES["E8"].met(0.1) and not RULES["E8"].met(0.11)
