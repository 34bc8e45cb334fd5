"""A run in the results format of lm-evaluation-harness (0.4): what existing dashboards read.

A folder a model with method, in it results_TIME.json and samples_TASK_TIME.jsonl, as
`lm_eval --output_path DIR --log_samples` leaves them. Its figures are shares: ours in percent are
divided by 100, and accuracy is `acc`. What differs from a run of lm_eval's own: prompts in samples
are what the predictions file keeps (head and tail of a long one).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from statistics import stdev
from typing import Any

from reattention_eval.json_text import finite
from reattention_eval.report.fields import is_number
from reattention_eval.report.labels import model_name
from reattention_eval.report.run import Cell
from reattention_eval.report.sample_rows import SampleRow, sample_rows
from reattention_eval.report.sample_scores import LOWER_IS_BETTER
from reattention_eval.whole_file import whole_file, write_whole_text

SOURCE = "reattention_eval"
FILTER = "none"
_NAMES = {"accuracy": "acc"}


def write_lm_eval(cells: Sequence[Cell], work_dir: Path, folder: Path) -> list[Path]:
    """The cells of one model with method into a folder of their own; the files that were written.

    Raises:
        ValueError, OSError: a predictions file is damaged, or a file cannot be read or written.
    """
    first = cells[0]
    own = folder / _sanitized(first.model)
    own.mkdir(parents=True, exist_ok=True)
    moment = _started(first)
    # as lm_eval writes it; a file's name ends with it
    name = moment.replace(tzinfo=None).isoformat(timespec="microseconds").replace(":", "-")
    files, hashes, results = [], {}, {}
    for cell in cells:
        path = own / f"samples_{cell.dataset}_{name}.jsonl"
        rows = [row for row in sample_rows(cell, work_dir) if row.error is None]
        hashes[cell.dataset] = _write_samples(path, rows, cell)
        results[cell.dataset] = _metrics(cell, rows)
        files.append(path)
    path = own / f"results_{name}.json"
    whole = {**_document(cells, results, moment), "task_hashes": hashes}
    write_whole_text(path, json.dumps(finite(whole), indent=2, ensure_ascii=True) + "\n")
    return [path, *files]


def _document(cells: Sequence[Cell], results: dict[str, Any], moment: datetime) -> dict[str, Any]:
    """`lm_eval.result_schema.EvalResults`."""
    first = cells[0].manifest
    model, method = first.get("model", {}), first.get("method", {})
    settings = model.get("settings") or {}
    versions = _environment(first).get("versions") or {}
    seconds = sum(r.get("seconds") or 0.0 for cell in cells for r in cell.records.values())
    return {
        "results": results,
        "group_subtasks": {cell.dataset: [] for cell in cells},
        "configs": {cell.dataset: _config(cell) for cell in cells},
        "versions": {cell.dataset: versions.get("reattention-eval") for cell in cells},
        "n-shot": {cell.dataset: 0 for cell in cells},
        "higher_is_better": {
            cell.dataset: {_name(n): n not in LOWER_IS_BETTER for n in _figures(cell)}
            for cell in cells
        },
        "n-samples": {
            cell.dataset: {
                "original": cell.manifest.get("dataset", {}).get("n", len(cell.records)),
                "effective": results[cell.dataset]["sample_len"],
            }
            for cell in cells
        },
        "config": {
            "model": SOURCE,
            "model_args": {
                "pretrained": model_name(cells[0]),
                "method": method.get("name"),
                **{f"method.{key}": value for key, value in (method.get("settings") or {}).items()},
            },
            "model_num_parameters": model.get("parameters"),
            "model_dtype": model.get("dtype"),
            "model_revision": "",
            "model_sha": settings.get("checkpoint") or "",
            "batch_size": None,
            "batch_sizes": [],
            "device": model.get("device"),
            "use_cache": None,
            "limit": None,
            "bootstrap_iters": 0,
            "gen_kwargs": None,
        },
        "git_hash": _environment(first).get("commit"),
        "date": moment.timestamp(),
        "transformers_version": versions.get("transformers"),
        "lm_eval_version": f"written by reattention-eval {versions.get('reattention-eval', '')}",
        "max_length": model.get("trained_window"),
        "model_source": SOURCE,
        "model_name": cells[0].model,
        "model_name_sanitized": _sanitized(cells[0].model),
        "system_instruction": settings.get("system"),
        "system_instruction_sha": _sha(settings["system"]) if settings.get("system") else None,
        "fewshot_as_multiturn": False,
        "chat_template": None,
        "chat_template_sha": None,
        "total_evaluation_time_seconds": str(seconds),
    }


def _config(cell: Cell) -> dict[str, Any]:
    about = cell.manifest.get("dataset", {})
    asked = {"until": [], "max_gen_toks": about.get("max_out_len"), "do_sample": False}
    return {
        "task": cell.dataset,
        "dataset_path": about.get("benchmark"),
        "dataset_name": about.get("task"),
        "output_type": "generate_until",
        "num_fewshot": 0,
        "generation_kwargs": asked,
        "metadata": about,
    }


def _metrics(cell: Cell, rows: Sequence[SampleRow]) -> dict[str, Any]:
    found: dict[str, Any] = {"alias": cell.dataset, "name": cell.dataset, "sample_len": len(rows)}
    for name, value in _figures(cell).items():
        own = [_share(name, row.scores[name]) for row in rows if name in row.scores]
        error = stdev(own) / math.sqrt(len(own)) if len(own) > 1 else "N/A"
        found[f"{_name(name)},{FILTER}"] = _share(name, value)
        found[f"{_name(name)}_stderr,{FILTER}"] = error
    return found


def _write_samples(path: Path, rows: Iterable[SampleRow], cell: Cell) -> str:
    """One line a sample (`lm_eval.result_schema.SampleResult`); the hash over all of them."""
    names = list(_figures(cell))
    total = hashlib.sha256()
    asked = _config(cell)["generation_kwargs"]
    with whole_file(path) as file:
        for row in rows:
            sample = finite(_sample(row, names, asked))
            for key in ("doc_hash", "prompt_hash", "target_hash"):
                total.update(sample[key].encode())
            file.write(f"{json.dumps(sample, ensure_ascii=True)}\n".encode("ascii"))
    return total.hexdigest()


def _sample(row: SampleRow, names: Sequence[str], asked: Any) -> dict[str, Any]:
    doc = {"index": row.index, "reference": row.reference, **row.facts}
    target = row.reference if isinstance(row.reference, str) else json.dumps(row.reference)
    prompt = row.prompt or ""
    known = {_name(name): _share(name, row.scores[name]) for name in names if name in row.scores}
    return {
        "doc_id": row.index,
        "doc": doc,
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": asked}},
        "resps": [[row.prediction]],
        "filtered_resps": [row.prediction],
        "filter": FILTER,
        "metrics": list(known),
        "doc_hash": _sha(json.dumps(doc, indent=2)),
        "prompt_hash": str(row.record.get("prompt_sha256") or _sha(prompt)),
        "target_hash": _sha(target),
        **known,
    }


def _figures(cell: Cell) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in cell.result.items()
        if name != "n" and is_number(value) and not math.isnan(value)
    }


def _name(figure: str) -> str:
    return _NAMES.get(figure, figure)


def _share(figure: str, value: float) -> float:
    return value if figure in LOWER_IS_BETTER else value / 100


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def _sanitized(name: str) -> str:
    """As lm_eval names a model's folder."""
    return re.sub(r'["<>:/|\\?*\[\]]+', "__", name)


def _environment(manifest: dict[str, Any]) -> dict[str, Any]:
    found = manifest.get("environment")
    first = found[0] if isinstance(found, list) and found else {}
    return first if isinstance(first, dict) else {}


def _started(cell: Cell) -> datetime:
    try:
        told = datetime.fromisoformat(str(_environment(cell.manifest).get("started")))
        return told.astimezone(timezone.utc)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, timezone.utc)
