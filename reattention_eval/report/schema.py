"""The schema of a run's records and manifests: what each field holds, and which versions there are.

`FIELDS` is what docs/records.md documents and `check` holds files against. What an older version
wrote is read as the present one says it; what a newer version wrote is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from reattention_eval.errors import DataError
from reattention_eval.report.fields import is_count, is_number

# 1: no version is named. 2: `version`, and of a record when it was finished and what it took.
VERSION = 2
NEWER = (
    "{where} is of version {found} of a run's files, and this reattention-eval reads up to version "
    f"{VERSION}: install a newer one (pip install --upgrade reattention-eval)."
)
# no field of a record is a tensor: what is a list is a handful of token ids
MOST_IDS = 16


class Field(NamedTuple):
    """A field of a record: what stands in it, whether each has it (of version 1 only `index`), and
    what it means."""

    kind: str
    required: bool
    meaning: str


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MOST_IDS and all(map(is_count, value))


def _is_spans(value: Any) -> bool:
    """Of each layer [start, end, start, end, ...]."""
    return isinstance(value, list) and all(
        isinstance(layer, list) and len(layer) % 2 == 0 and all(map(is_count, layer))
        for layer in value
    )


KINDS: Mapping[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "count": is_count,
    "number": lambda value: is_number(value) and value >= 0,
    "bool": lambda value: isinstance(value, bool),
    "ids": _is_ids,
    "spans": _is_spans,
    "any": lambda value: True,
}

# of every line
COMMON: Mapping[str, Field] = {
    "version": Field("count", True, "of this schema"),
    "index": Field("count", True, "of the sample; of lines with one index the last counts"),
    "key": Field("text", True, "sha256 of prompt and settings: what a later run may take over"),
    "weights": Field("text", False, "sha256 of blocks of the weights: other ones run again"),
    "finished": Field("number", True, "seconds since the epoch, when the line was written"),
    "seconds": Field("number", True, "since the line before; the samples of a batch share theirs"),
}  # fmt: skip
# of samples that raised
FAILED: Mapping[str, Field] = {
    "error": Field("text", True, "class and words of the exception"),
    "gold": Field("any", False, "as below"),
}
# of samples with an answer
ANSWERED: Mapping[str, Field] = {
    "gold": Field("any", False, "the reference, as the benchmark's raw file has it"),
    "prediction": Field("text", False, "the answer, whole"),
    "value": Field("any", False, "what an inferencer of OpenCompass's was told instead"),
    "answer_nll": Field("number", False, "of the right answer, nats per token; null without one"),
    "prompt_sha256": Field("text", True, "of the prompt's token ids"),
    "n_tokens": Field("count", True, "of the prompt, as the model read it"),
    "n_cut": Field("count", True, "tokens that the prompt lost, from its middle"),
    "document_tokens": Field("count", False, "up to the document's end; null: not known"),
    "head_ids": Field("ids", True, f"the prompt's first {MOST_IDS} token ids"),
    "tail_ids": Field("ids", True, f"its last {MOST_IDS}"),
    "must_select": Field("bool", True, "longer than what the method may leave whole"),
    "new_tokens": Field("count", False, "of the answer, stop tokens aside"),
    "batch_size": Field("count", True, "prompts that ran together"),
    "layer_steps": Field("count", True, "forwards times layers"),
    "layer_steps_selected": Field("count", True, "that attended to a part of the cache"),
    "mean_view": Field("number", True, "keys that a layer attended to"),
    "decode_view": Field("number", False, "the same, of the steps behind the prompt"),
    "keys_kept": Field("number", False, "that a layer held of a row at the end, on average"),
    "attended": Field("spans", False, "of one sample of a dataset: where each layer attended"),
    "prefill_tokens": Field("count", True, "of the prompt that were read"),
    "reused_tokens": Field("count", True, "of the prompt that were in the cache already"),
    "decode_tokens": Field("count", True, "decoded, of all rows of a batch"),
    "forward_tokens": Field("count", False, "of a row's prompt, in one forward at most"),
    "prefill_seconds": Field("number", True, "to the first token"),
    "decode_seconds": Field("number", True, "from there"),
    "decode_tokens_per_second": Field("number", True, "of the batch"),
    "cache_bytes": Field("count", True, "of keys and values, on GPUs"),
    "cache_host_bytes": Field("count", False, "of keys and values, in host memory"),
    "bytes_to_host": Field("count", False, "of keys and values, transferred"),
    "bytes_from_host": Field("count", False, "likewise"),
    "values_asked": Field("count", False, "that views fetched, of a cache in host memory"),
    "values_held": Field("count", False, "those of them that the view before had fetched"),
    "peak_bytes": Field("count", True, "on all GPUs at most; on a CPU the process's memory"),
    "attention": Field("text", False, "what computes it"),
}  # fmt: skip
NULLABLE = frozenset(("gold", "value", "answer_nll", "document_tokens"))


def refuse_newer(entry: Mapping[str, Any], where: object) -> None:
    """Raise DataError for a record or manifest of a version newer than VERSION."""
    found = entry.get("version", 1)
    if is_count(found) and found > VERSION:
        raise DataError(NEWER.format(where=where, found=found))


def migrated(manifest: dict[str, Any], where: object) -> dict[str, Any]:
    """A manifest of any known version as VERSION has it; {} stays {}.

    Raises:
        DataError: it is of a newer version.
    """
    refuse_newer(manifest, where)
    if not manifest or "version" in manifest:
        return manifest
    made = {**manifest, "version": VERSION}
    # the first manifests named one process
    if isinstance(manifest.get("environment"), dict):
        made["environment"] = [manifest["environment"]]
    about = manifest.get("dataset")
    # the needle's style was not called its task
    if isinstance(about, dict) and about.get("style") and "task" not in about:
        made["dataset"] = {**about, "benchmark": "needle", "task": about["style"]}
    return made
