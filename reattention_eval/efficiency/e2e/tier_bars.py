"""Bars of the cache's tiers: a prompt on 80 GB, and what values in host memory cost."""

from __future__ import annotations

from typing import Any

from reattention_eval.cache import DEVICE, VALUES_ON_HOST
from reattention_eval.efficiency.e2e.record import E2ERecord
from reattention_eval.efficiency.e2e.results import Column, figure_of
from reattention_eval.efficiency.shape import ModelShape, read_shape
from reattention_eval.efficiency.work import can_be_timed, prompt_work
from reattention_eval.machine_memory import GIB
from reattention_eval.methods import ReAttention, build_method

CARD_BYTES = 80 * GIB  # of which a card of 80 GB has a little less
HOST_BYTES = 128 * 10**9
DECODED = 32
LONG, TEXT_TOKENS = 1_048_576, 131_072
LLAMA, QWEN = "LLaMA3.1-8B", "Qwen2-1.5B"
Found = tuple[str, dict[str, dict[str, Any]], str, Column]


def tier_bars(record: E2ERecord, columns: list[Column]) -> list[Found]:
    """(id, raw numbers, shape, where) of those that the record holds."""
    if record.data.get("prompt"):
        return _of_text(record, columns)
    memory = record.memory
    if not record.data["weights"].startswith("random") or memory is None or memory > CARD_BYTES:
        return []
    if record.data["model"] == LLAMA:
        return _million(record, columns, memory)
    return _longest(columns, memory) if record.data["model"] == QWEN else []


def _by_the_paper(cell: dict[str, Any]) -> bool:
    """Whether it is ReAttention, of any sizes and no other rule."""
    return cell["method"] == ReAttention.name and can_be_timed(
        build_method({"type": cell["method"], **cell["settings"]})
    )


def _own(column: Column) -> list[dict[str, Any]]:
    """The paper's rule, in any tier, with an answer behind the prompt."""
    return [
        cell for cell in column.cells.values()
        if figure_of(cell, "ttft_seconds") is not None and _by_the_paper(cell)
        and min(run.get("decode_tokens", 0) for run in cell["runs"]) >= DECODED
    ]  # fmt: skip


def _million(record: E2ERecord, columns: list[Column], memory: int) -> list[Found]:
    """E5: the fastest tier that holds to the memory of the host."""
    ceilings = record.data.get("ceilings", {})
    found = []
    for column in columns:
        cells = [
            cell for cell in _own(column)
            if column.tokens == LONG and (figure_of(cell, "host_bytes") or 0) <= HOST_BYTES
        ]  # fmt: skip
        ceiling = ceilings.get(str(cells[0]["environment"])) if cells else None
        if not ceiling:
            continue
        best = min(cells, key=lambda cell: figure_of(cell, "ttft_seconds") or 0)
        method = build_method({"type": best["method"], **best["settings"]})
        assert isinstance(method, ReAttention)
        work = prompt_work(ModelShape(**record.data["shape"]), method, column.tokens)
        raw = {
            "ms": 1000 * (figure_of(best, "ttft_seconds") or 0), "work": work.linear + work.scores,
            **ceiling, "form": best["form"], "cache": best.get("cache", DEVICE),
            "peak_bytes": figure_of(best, "peak_bytes"),
            "host_bytes": figure_of(best, "host_bytes"),
        }  # fmt: skip
        shape = f"{LLAMA} {column.tokens} tokens, {memory / GIB:.4g} GiB"
        found.append(("E5", {"prompt": raw}, shape, column))
    return found


def _longest(columns: list[Column], memory: int) -> list[Found]:
    """E6."""
    long = [(column, cells[0]) for column in columns if (cells := _own(column))]
    if not long:
        return []
    column, cell = max(long, key=lambda pair: pair[0].tokens)
    raw = {
        "tokens": column.tokens, "form": cell["form"], "cache": cell.get("cache", DEVICE),
        "ms": 1000 * (figure_of(cell, "ttft_seconds") or 0),
        "peak_bytes": figure_of(cell, "peak_bytes"), "host_bytes": figure_of(cell, "host_bytes"),
    }  # fmt: skip
    shape = f"{QWEN}, {memory / GIB:.4g} GiB"
    return [("E6", {"prompt": raw}, shape, column)]


def _of_text(record: E2ERecord, columns: list[Column]) -> list[Found]:
    """E7 and E7p, of a model with trained weights in the shape of 1.5B."""
    shape, wanted = ModelShape(**record.data["shape"]), read_shape("Qwen/Qwen2-1.5B")
    sizes = ("layers", "hidden", "heads", "kv_heads", "head_dim")
    if any(getattr(shape, name) != getattr(wanted, name) for name in sizes):
        return []
    found: list[Found] = []
    for column in columns:
        pairs = [
            (other, cell)
            for cell in column.cells.values()
            if column.tokens == TEXT_TOKENS and cell.get("cache") == VALUES_ON_HOST
            and cell["runs"] and _by_the_paper(cell)
            and (other := column.cells.get(cell["form"])) and other["runs"]
        ]  # fmt: skip
        for other, cell in pairs:
            for bar, figure in (("E7", "tpot_seconds"), ("E7p", "ttft_seconds")):
                ours, reference = figure_of(cell, figure), figure_of(other, figure)
                if ours is None or reference is None:
                    continue
                raw = {
                    "ms": 1000 * ours, "reference_ms": 1000 * reference, "form": cell["form"],
                    "value_hits": figure_of(cell, "value_hits"), "runs": len(cell["runs"]),
                }  # fmt: skip
                shown = f"{record.data['model']}, {record.data['prompt']}, {column.tokens} tokens"
                found.append((bar, {"text": raw}, shown, column))
    return found
