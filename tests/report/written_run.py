"""Runs of two methods on one task, as evaluations leave them, with answers that are given."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FULL, OURS = ("full", None), ("reattention", 2048)
HOSTILE = "\x1b[31m\x00\u2028\u202e<script>alert(1)</script>" + "x" * 3000


def write_cell(
    run: Path, method: tuple[str, int | None], answers: Sequence[str], *, task: str = "qasper",
    scores: Sequence[float] | None = None, facts: dict[str, Any] | None = None,
    errors: dict[int, str] | None = None, nll: Sequence[float] | None = None,
    settings: dict[str, Any] | None = None,
) -> tuple[str, str]:  # fmt: skip
    """References are "Paris"; an answer scores 100 if it is that, or what `scores` says."""
    (run / "configs").mkdir(parents=True, exist_ok=True)
    name, budget = method
    words = [name, *(f"{key}{value}" for key, value in (settings or {}).items())]
    model, dataset = "-".join(["tiny", *words]), f"longbench-{task}-31500-abcdef01"
    scores = scores or [100.0 * (answer == "Paris") for answer in answers]
    records = [
        {"index": i, "key": f"k{i}", "gold": "Paris", "prediction": answer,
         "prompt_sha256": f"{i:064d}", "n_tokens": 4000 + i, "n_cut": 7 if i == 1 else 0,
         "head_ids": [1, 2, 3], "tail_ids": [4, 5, 6], "must_select": budget is not None,
         "new_tokens": 3, "answer_nll": nll[i] if nll else None, "batch_size": 1,
         "decode_tokens": 3, "decode_tokens_per_second": 20.0, "layer_steps": 100,
         "mean_view": 900.0,
         "layer_steps_selected": 60 if budget else 0, "prefill_tokens": 4000, "reused_tokens": 0,
         "forward_tokens": 512, "prefill_seconds": 1.5, "decode_seconds": 0.5, "cache_bytes": 10**6,
         "peak_bytes": 2**30, "attention": "torch", "version": 2, "finished": 1.8e9 + 2 * i,
         "seconds": 2.0}
        for i, answer in enumerate(answers)
    ]  # fmt: skip
    for i, reason in (errors or {}).items():
        kept = ("index", "key", "gold", "version", "finished", "seconds")
        records[i] = {key: records[i][key] for key in kept} | {"error": reason}
    details = [
        {"index": i, "sample": i, "document": i, "n_tokens": 4000 + i, "n_cut": 0,
         "reference": "Paris", "prediction": answer, "scorings": ["official"], "score": score}
        for i, (answer, score) in enumerate(zip(answers, scores, strict=True))
    ]  # fmt: skip
    about = {
        "abbr": dataset, "n": len(answers), "fingerprint": "f" * 64, "max_out_len": 32,
        "max_prompt_tokens": 31500, "chat_template": True, "benchmark": "longbench", "task": task,
        "group": "single-document QA", "length": 31500, "scoring": "official", **(facts or {}),
    }  # fmt: skip
    put(run / "records" / model / f"{dataset}.manifest.json", {
        "version": 2,
        "model": {"name": "Tiny", "type": "llama", "dtype": "float32", "device": "cuda:0",
                  "trained_window": 8192, "settings": {"checkpoint": "c0ffee", "system": None}},
        "method": {"name": name, "budget": budget,
                   "settings": {"chunk_size": 512, **(settings or {})}},
        "dataset": about,
        "environment": [{"versions": {"reattention-eval": "0.1.0", "transformers": "4.57.6"},
                         "commit": "0" * 40, "started": "2026-11-29T08:45:00+00:00"}],
    })  # fmt: skip
    text = "".join(json.dumps(record) + "\n" for record in records)
    (run / "records" / model / f"{dataset}.jsonl").write_text(text)
    if errors:
        return model, dataset
    put(run / "results" / model / f"{dataset}.json", {
        "score": sum(scores) / len(scores), "f1": sum(scores) / len(scores),
        **({"answer_nll": sum(nll) / len(nll)} if nll else {}),
        "n": len(answers), "details": details,
    })  # fmt: skip
    put(run / "predictions" / model / f"{dataset}.json", {
        str(i): {"origin_prompt": f"Read this.\n[... 9,000 characters ...]\nQuestion {i}?",
                 "prediction": answer, "gold": "Paris", "answer_nll": None, "n_tokens": 4000 + i,
                 "n_cut": 0}
        for i, answer in enumerate(answers)
    })  # fmt: skip
    return model, dataset


def put(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
