"""What the files of a run must hold where tables read it; anything else may hold what it likes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

MOST = 2**53  # a count beyond it is none, and a float holds everything below
Check = Callable[[Any], bool]


def is_count(value: Any) -> bool:
    """A whole number that can count tokens, samples or bytes."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and 0 <= value <= MOST


def place_of(key: str) -> int | None:
    """The number that a name of an object, or of a file's part, is; None of any other."""
    return int(key) if re.fullmatch("0|[1-9][0-9]{0,14}", key) else None


def is_number(value: Any) -> bool:
    """A number that arithmetic can go on with; NaN says that there is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= MOST or (isinstance(value, float) and not math.isinf(value))


def _optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _are_spans(value: Any) -> bool:
    """Of each layer [start, end, start, end, ...]."""
    if not isinstance(value, list) or not all(isinstance(layer, list) for layer in value):
        return False
    return all(len(layer) % 2 == 0 and all(map(is_count, layer)) for layer in value)


def _is_measured(value: Any) -> bool:
    return is_number(value) and not math.isnan(value)


_count, _number, _text = _optional(is_count), _optional(is_number), _optional(_is_text)
_measured = _optional(_is_measured)
RECORD: Mapping[str, Check] = {
    "index": is_count,
    "version": _count,
    **dict.fromkeys(("finished", "seconds"), _measured),
    **dict.fromkeys(("prediction", "prompt_sha256", "key", "weights", "attention"), _text),
    **dict.fromkeys(("new_tokens", "batch_size"), _count),
    "must_select": _optional(lambda value: isinstance(value, bool)),
    "attended": _optional(_are_spans),
    **dict.fromkeys(
        ("n_tokens", "n_cut", "layer_steps", "layer_steps_selected", "reused_tokens", "peak_bytes"),
        _measured,
    ),
    **dict.fromkeys(
        (
            "mean_view",
            "decode_view",
            "keys_kept",
            "cache_bytes",
            "prefill_seconds",
            "decode_seconds",
            "decode_tokens_per_second",
        ),
        _measured,
    ),
    "answer_nll": _number,
}
DETAIL: Mapping[str, Check] = {
    "depth": _number,
    "length": _count,
    "accuracy": _number,
    "answer_nll": _number,
    "score": _number,
}
MANIFEST: Mapping[str, Mapping[str, Check]] = {
    "model": {
        "name": _text,
        "trained_window": _count,
        "settings": _is_mapping,
        "settings.max_prompt_tokens": _count,
        "settings.max_seq_len": _count,
        "settings.system": _text,
    },
    "method": {"name": _is_text, "budget": _count, "settings": _is_mapping},
    "dataset": {
        "n": _count,
        **dict.fromkeys(("length", "max_out_len", "max_prompt_tokens"), _count),
        "benchmark": _text,
        "task": _text,
        "group": _text,
    },
}


def wrong_field(entry: Mapping[str, Any], checks: Mapping[str, Check]) -> str | None:
    """The first field that is there and not what it must be, with what stands in it."""
    for name, check in checks.items():
        first, _, second = name.partition(".")
        if first not in entry:
            continue
        value = entry[first]
        if second:
            value = value.get(second) if isinstance(value, dict) else None
        if not check(value):
            return f"{name} is {shown(value)}"
    return None


def wrong_manifest(manifest: Mapping[str, Any]) -> str | None:
    """As `wrong_field`, for a manifest."""
    if not _count(manifest.get("version")):
        return f"version is {shown(manifest['version'])}"
    for part, checks in MANIFEST.items():
        entry = manifest.get(part, {})
        if not isinstance(entry, dict):
            return f"{part} is {shown(entry)}"
        if entry and part == "method" and "name" not in entry:
            return "method has no name"
        if wrong := wrong_field(entry, checks):
            return f"{part}.{wrong}"
    environment = manifest.get("environment")
    for process in environment if isinstance(environment, list) else [environment]:
        if isinstance(process, dict) and not isinstance(process.get("versions") or {}, dict):
            return f"environment.versions is {shown(process['versions'])}"
    return None


def wrong_result(result: Mapping[str, Any]) -> str | None:
    """As `wrong_field`, for a result: `n` counts, every other number can be averaged."""
    if "n" in result and not is_count(result["n"]):
        return f"n is {shown(result['n'])}"
    for name, value in result.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and not is_number(value):
            return f"{name} is {shown(value)}"
    details = result.get("details")
    for i, detail in enumerate(details if isinstance(details, list) else ()):
        if isinstance(detail, dict) and (wrong := wrong_field(detail, DETAIL)):
            return f"{wrong} in details[{i}]"
    return None


def shown(value: Any) -> str:
    """A value in at most sixty characters."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."
