"""A run as logs of inspect_ai (https://inspect.aisi.org.uk): what `inspect view` serves.

A log is a zip of JSON (format version 2): a header, summaries, and a file a sample. inspect_ai is
not imported: its libraries (fsspec, click) are of other versions than OpenCompass's, and the two
cannot be installed together; tests/report/test_inspect_log.py holds logs against its schema.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

from reattention_eval.json_text import finite
from reattention_eval.report.fields import is_number
from reattention_eval.report.labels import model_name
from reattention_eval.report.progress import is_running
from reattention_eval.report.run import Cell
from reattention_eval.report.sample_rows import SampleRow, sample_rows
from reattention_eval.whole_file import whole_file

FORMAT = 2
NO_PROMPT = "(prompts stand in the predictions file, which is written when all samples are done)"
# what of a record is said elsewhere in the log, or is of no use to a reader
_ASIDE = frozenset(("index", "key", "gold", "prediction", "value", "error", "head_ids", "tail_ids",
                    "version", "finished", "seconds"))  # fmt: skip
# what a list of samples shows of each text; inspect cuts there as well
_SUMMARY = 1024


def write_inspect_log(cell: Cell, work_dir: Path, folder: Path) -> Path:
    """One log of a cell into `folder`, under a name that stays the same; whole or not at all.

    Raises:
        ValueError, OSError: a predictions file is damaged, or a file cannot be read or written.
    """
    rows = sample_rows(cell, work_dir)
    spec = _spec(cell, len(rows))
    moment = spec["created"].replace(":", "-")
    path = folder / f"{moment}_{_safe(cell.dataset)}_{spec['eval_id']}.eval"
    plan = _plan(cell)
    with whole_file(path) as file, ZipFile(file, "w", ZIP_DEFLATED, compresslevel=1) as log:
        _put(log, "_journal/start.json", {"version": FORMAT, "eval": spec, "plan": plan})
        summaries = []
        for row in rows:
            sample = _sample(row, cell)
            _put(log, f"samples/{row.index}_epoch_1.json", sample)
            summaries.append(_summary(sample))
        _put(log, "_journal/summaries/1.json", summaries)
        _put(log, "summaries.json", summaries)
        _put(log, "header.json", _header(cell, spec, plan, rows, work_dir))
    return path


def _put(log: ZipFile, name: str, value: Any) -> None:
    log.writestr(name, json.dumps(finite(value), ensure_ascii=True, allow_nan=False))


def _spec(cell: Cell, samples: int) -> dict[str, Any]:
    """What was evaluated: inspect's EvalSpec."""
    manifest = cell.manifest
    model, method = manifest.get("model", {}), manifest.get("method", {})
    about = manifest.get("dataset", {})
    first = _environment(manifest)
    versions = first.get("versions") or {}
    own = hashlib.sha256(f"{cell.model}/{cell.dataset}".encode()).hexdigest()[:22]
    spec = {
        "eval_id": own,
        "run_id": own,
        "created": _moment(first.get("started")),
        "task": _task(cell),
        # logs of one task_id are tries of one task to inspect, and it lists the last
        "task_id": own,
        "task_version": 0,
        "task_attribs": {},
        "task_args": {k: v for k, v in about.items() if k not in ("abbr", "n")},
        "task_args_passed": {},
        "solver": method.get("name"),
        "solver_args": method.get("settings") or {},
        "solver_args_passed": {},
        "tags": [str(x) for x in (about.get("benchmark"), method.get("name")) if x],
        "dataset": {"name": cell.dataset, "samples": about.get("n", samples)},
        "model": _model(cell),
        "model_generate_config": {"max_tokens": about.get("max_out_len"), "temperature": 0.0},
        "model_args": {k: v for k, v in model.items() if k in ("path", "dtype", "device")},
        "config": {},
        "packages": {str(name): str(version) for name, version in versions.items()},
        "metadata": {"model": model, "method": method, "environment": manifest.get("environment")},
        # answers are shown as they are: read as Markdown, "2753559." loses its digits to a list
        "viewer": {"trust_content": False},
    }
    if first.get("commit"):
        revision = {"type": "git", "origin": "", "commit": str(first["commit"])}
        spec["revision"] = revision
    return spec


def _plan(cell: Cell) -> dict[str, Any]:
    method = cell.manifest.get("method", {})
    settings = method.get("settings") or {}
    step = {"solver": str(method.get("name") or "generate"), "params": settings}
    return {"name": "plan", "steps": [{**step, "params_passed": settings}], "config": {}}


def _header(
    cell: Cell, spec: Mapping[str, Any], plan: Mapping[str, Any], rows: Sequence[SampleRow],
    work_dir: Path,
) -> dict[str, Any]:  # fmt: skip
    failed = [row for row in rows if row.error]
    if failed:
        status = "error"
    elif cell.has_predictions and cell.result:
        status = "success"
    else:  # the viewer waits for more of what is "started"
        status = "started" if is_running(work_dir, cell.model, cell.dataset) else "cancelled"
    ends = [row.record["finished"] for row in rows if is_number(row.record.get("finished"))]
    usage: Counter[str] = Counter()
    for row in rows:
        usage.update(_usage(row.record))
    header: dict[str, Any] = {
        "version": FORMAT,
        "status": status,
        "eval": spec,
        "plan": plan,
        "results": {
            "total_samples": spec["dataset"]["samples"],
            "completed_samples": len(rows) - len(failed),
            "scores": list(_figures(cell)),
        },
        "stats": {
            "started_at": spec["created"],
            "completed_at": _moment(max(ends)) if ends else spec["created"],
            "model_usage": {spec["model"]: dict(usage)} if usage else {},
        },
    }
    if failed:
        words = f"{len(failed)} of {len(rows)} samples failed (sample {failed[0].index}: "
        header["error"] = _error(f"{words}{failed[0].error})")
    return header


def _figures(cell: Cell) -> Iterator[dict[str, Any]]:
    for name, value in cell.result.items():
        if name != "n" and is_number(value) and not math.isnan(value):
            metric = {"name": "mean", "value": value, "params": {}}
            yield {"name": name, "scorer": name, "params": {}, "metrics": {"mean": metric}}


def _sample(row: SampleRow, cell: Cell) -> dict[str, Any]:
    """One sample: inspect's EvalSample."""
    record, model = row.record, _model(cell)
    prompt = NO_PROMPT if row.prompt is None else row.prompt
    usage = _usage(record)
    answer = {"role": "assistant", "content": row.prediction, "source": "generate", "model": model}
    sample: dict[str, Any] = {
        "id": row.index,
        "epoch": 1,
        "input": prompt,
        "target": _target(row.reference),
        "messages": [{"role": "user", "content": prompt, "source": "input"}],
        "output": {"model": model, "choices": [], "completion": ""},
        "scores": {
            name: {"value": value, "answer": row.prediction, "history": []}
            for name, value in row.scores.items()
        },
        "metadata": {**row.facts, **_cut(record, cell), **_kept(record)},
        "store": {},
        "events": [],
        "model_usage": {model: usage} if usage else {},
        "role_usage": {},
        "attachments": {},
    }
    if row.error is None:
        sample["messages"].append(answer)
        stop = _stop(record, cell)
        sample["output"]["choices"] = [{"message": answer, "stop_reason": stop}]
        sample["output"] |= {"completion": row.prediction, **({"usage": usage} if usage else {})}
    else:
        sample["error"] = _error(row.error)
    end: Any = record.get("finished")
    took: Any = record.get("seconds")
    if is_number(end) and is_number(took):
        sample["started_at"], sample["completed_at"] = _moment(end - took), _moment(end)
        sample["total_time"] = sample["working_time"] = took
    return sample


def _summary(sample: Mapping[str, Any]) -> dict[str, Any]:
    """What the list of samples shows: inspect's EvalSampleSummary."""
    kept = ("id", "epoch", "metadata", "model_usage", "role_usage", "started_at", "completed_at",
            "total_time", "working_time")  # fmt: skip
    made = {key: sample[key] for key in kept if key in sample}
    made["input"] = sample["input"][:_SUMMARY]
    target = sample["target"]
    made["target"] = target[:_SUMMARY] if isinstance(target, str) else target[:8]
    made["scores"] = {
        name: {**score, "answer": score["answer"][:_SUMMARY]}
        for name, score in sample["scores"].items()
    }
    if "error" in sample:
        made["error"] = sample["error"]["message"][:_SUMMARY]
    return {**made, "completed": True, "message_count": len(sample["messages"])}


def _cut(record: Mapping[str, Any], cell: Cell) -> dict[str, Any]:
    """Why the prompt lost its middle, and what was attended to, in words."""
    words = {}
    if record.get("n_cut"):
        about, own = cell.manifest.get("dataset", {}), cell.manifest.get("model", {})
        settings = own.get("settings") or {}
        limits = [about.get("max_prompt_tokens"), settings.get("max_prompt_tokens")]
        limits = [limit for limit in (*limits, settings.get("max_seq_len")) if limit]
        limit = f"more than {min(limits):,} tokens" if limits else "too long"
        words["cut"] = f"{record['n_cut']:,} tokens from its middle: it was {limit}"
    steps, chosen = record.get("layer_steps"), record.get("layer_steps_selected")
    if steps and chosen is not None:
        share = f"{100 * chosen / steps:.0f} % of layer-steps selected"
        words["attended"] = f"{share}; a layer attended to {record.get('mean_view') or 0:,.0f} keys"
    return words


def _kept(record: Mapping[str, Any]) -> dict[str, Any]:
    """Of a record what is plain and small."""
    return {
        name: value
        for name, value in record.items()
        if name not in _ASIDE
        and (isinstance(value, (str, bool)) or (is_number(value) and not math.isnan(value)))
    }


def _usage(record: Mapping[str, Any]) -> dict[str, int]:
    read, new = record.get("n_tokens"), record.get("new_tokens")
    if not isinstance(read, int) or not isinstance(new, int):
        return {}
    reused = int(record.get("reused_tokens") or 0)
    usage = {"input_tokens": read - reused, "output_tokens": new, "total_tokens": read + new}
    return {**usage, "input_tokens_cache_read": reused}


def _stop(record: Mapping[str, Any], cell: Cell) -> str:
    limit, new = cell.manifest.get("dataset", {}).get("max_out_len"), record.get("new_tokens")
    if not limit or new is None:
        return "unknown"
    return "max_tokens" if new >= limit else "stop"


def _target(reference: Any) -> str | list[str]:
    if isinstance(reference, str):
        return reference
    if isinstance(reference, list) and all(isinstance(one, str) for one in reference):
        return reference
    return "" if reference is None else json.dumps(reference, ensure_ascii=False)


def _error(message: str) -> dict[str, str]:
    return {"message": message, "traceback": message, "traceback_ansi": message}


def _environment(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The first process that ran samples."""
    found = manifest.get("environment")
    first = found[0] if isinstance(found, list) and found else {}
    return first if isinstance(first, dict) else {}


def _task(cell: Cell) -> str:
    facts = cell.manifest.get("dataset", {})
    named = [facts.get(key) for key in ("benchmark", "task", "length")]
    return "-".join(map(str, named)) if all(named) else cell.dataset


def _model(cell: Cell) -> str:
    """Method, its budget and the checkpoint: lists of logs have no column of their own for it."""
    method = cell.manifest.get("method", {})
    words = [str(method[key]) for key in ("name", "budget") if method.get(key)]
    return f"{'-'.join(words)}/{model_name(cell)}" if words else model_name(cell)


def _moment(value: Any) -> str:
    """A time as ISO 8601 in UTC; the epoch where none is known."""
    try:
        if is_number(value):
            at = datetime.fromtimestamp(value, timezone.utc)
        else:
            at = datetime.fromisoformat(str(value)).astimezone(timezone.utc)
    except (ValueError, OverflowError, OSError):
        at = datetime.fromtimestamp(0, timezone.utc)
    return at.isoformat(timespec="seconds")


def _safe(name: str) -> str:
    """A part of a file's name; inspect reads `_` as the end of one."""
    return "".join(char if char.isalnum() else "-" for char in name)
