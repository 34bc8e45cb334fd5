"""A record as Markdown, and tables that stand between markers in a document."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from reattention_eval.cache import DEVICE
from reattention_eval.efficiency.e2e.record import E2ERecord
from reattention_eval.efficiency.e2e.results import (
    Column,
    Shown,
    busy_host,
    columns,
    figure_of,
    shown,
)
from reattention_eval.engine.fit import CACHES
from reattention_eval.errors import DataError
from reattention_eval.machine_memory import GIB

OURS = ("reattention", "reattention_plus")  # beside the fastest full attention
FORMS = (*OURS, "full", "whole-cudnn", "whole-flash", "whole-fa3", "streaming_llm")
WORDS = {
    "whole-cudnn": "full, whole prompt, cuDNN",
    "whole-flash": "full, whole prompt, FlashAttention-2",
    "whole-fa3": "full, whole prompt, FlashAttention-3",
    "full": "full, as attached",
}
PARTS = (
    ("Time to first token, seconds", "ttft_seconds", 1.0),
    ("Time per output token, milliseconds", "tpot_seconds", 1000.0),
    ("Peak memory, GiB", "peak_bytes", 1 / GIB),
    ("Of it above weights and KV cache, GiB", "above_bytes", 1 / GIB),
    ("KV cache in host memory, GiB", "host_bytes", 1 / GIB),
    ("Energy of a prompt, kilojoules", "prompt_joules", 0.001),
    ("Energy of an output token, joules", "token_joules", 1.0),
)
# beside the record, not in documents
BESIDE = (
    *PARTS,
    ("Main memory of the process at most, GiB", "host_peak_bytes", 1 / GIB),
    ("Prompt tokens a second", "prompt_rate", 1.0),
    ("Output tokens a second", "answer_rate", 1.0),
)
TIMES = ("ttft_seconds", "tpot_seconds")


def markdown(record: E2ERecord | None, every: bool = False) -> str:
    """Tables of TTFT, TPOT, memory and energy by form, tier and length; without a record a
    sentence. every: what follows from others too.

    Raises:
        DataError: forms that should agree do not.
    """
    found = columns(record) if record else []
    if not found:
        return "Not measured yet.\n"
    by_length = {column.tokens: column for column in found}
    forms = sorted({form for column in found for form in column.cells}, key=order)
    out = [_caption(found)]
    for title, figure, scale in BESIDE if every else PARTS:
        if any(figure_of(cell, figure) for column in found for cell in column.cells.values()):
            out.append(_grid(title, figure, shown(figure, scale), forms, by_length))
    if answers := long_answers(found):
        out.append(answers)
    return "\n\n".join(out) + "\n"


def long_answers(found: Sequence[Column]) -> str:
    """Whether speed and memory stay as they are, thousand by thousand; nothing without any."""
    rows = []
    for column in found:
        for name, cell in column.cells.items():
            for run in cell["runs"]:
                if not (parts := run.get("thousands")):
                    continue
                seconds = [part["seconds"] for part in parts]
                sizes = [part["allocated_bytes"] for part in parts]
                grown = "" if None in sizes else f"{(max(sizes) - sizes[0]) / 2**20:,.1f}"
                rows.append(
                    f"| {WORDS.get(name, name)} | {column.tokens:,} | {1000 * len(parts):,} | "
                    f"{1000 / seconds[0]:.1f} | {1000 / seconds[-1]:.1f} | "
                    f"{min(seconds) / max(seconds):.3f} | {grown} |"
                )
    head = (
        "| Long answers | behind tokens | new tokens | tokens/s, first 1,000 | last 1,000 | "
        "slowest / fastest 1,000 | memory grown, MiB |"
    )
    return "\n".join([head, "| --- |" + " ---: |" * 6, *rows]) if rows else ""


def insert(document: str, name: str, table: str) -> str:
    """`document` with `table` between `<!-- e2e NAME -->` and `<!-- end -->`.

    Raises:
        DataError: it has no such place.
    """
    place = re.compile(rf"(<!-- e2e {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not place.search(document):
        raise DataError(
            f"the document has no place for {name}: <!-- e2e {name} --> ... <!-- end -->"
        )
    return place.sub(lambda found: f"{found[1]}\n{table}\n{found[2]}", document)


def write_tables(records: Sequence[E2ERecord], document: Path) -> None:
    """Each record's table into the place that the document marks for its model and device."""
    text = document.read_text(encoding="utf-8")
    for record in records:
        text = insert(text, record.name, markdown(record))
    document.write_text(text, encoding="utf-8")


def order(name: str) -> tuple[int, int, str]:
    """Of `name_of` in tables: by form, then by tier."""
    form, _, tier = name.rpartition(", ")
    if tier not in CACHES:
        form, tier = name, DEVICE
    known = form.partition(":")[0]
    place = FORMS.index(known) if known in FORMS else len(FORMS)
    return place, CACHES.index(tier), name


def _grid(
    title: str, figure: str, show: Shown, forms: Sequence[str], by_length: dict[int, Column]
) -> str:
    lengths = sorted(by_length)
    rows = [[title, *(f"{n:,}" for n in lengths)], ["---", *["---:"] * len(lengths)]]
    for form in forms:
        cells = [show(by_length[n].cells.get(form, {})) for n in lengths]
        if any(cells):
            rows.append([WORDS.get(form, form), *cells])
    for form in forms if figure in TIMES else ():
        if re.split("[:,]", form)[0] not in OURS:
            continue
        ratios = [by_length[n].speedup(form, figure) for n in lengths]
        if any(ratios):
            cells = [f"**{ratio:.2f}x**" if ratio else "" for ratio in ratios]
            rows.append([f"**fastest full / {form}**", *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _caption(found: Sequence[Column]) -> str:
    """What the figures were measured on, once for each environment."""
    lines = []
    for column in found:
        env = column.environment
        packages = ("torch", "triton", "transformers", "fa3-fwd", "flash-attn")
        versions = ", ".join(f"{name} {env['versions'][name]}"
                             for name in packages if name in env["versions"])  # fmt: skip
        commit = f"commit {env['commit'][:7]}" if env["commit"] else "no commit"
        lines.append(f"{env['device']}, {versions}, {commit}, {env['date']}")
    counts = sorted({len(c["runs"]) for col in found for c in col.cells.values() if c["runs"]})
    runs = "" if not counts else (
        f" Medians of {counts[0]} run{'s' if counts[0] > 1 else ''}." if len(counts) == 1 else
        f" Medians of {counts[0]} to {counts[-1]} runs (one where a run takes minutes)."
    )  # fmt: skip
    return "; ".join(dict.fromkeys(lines)) + "." + runs + _beside(found)


def _beside(found: Sequence[Column]) -> str:
    """At which lengths others kept the host busy."""
    busy = {column.tokens: max(map(busy_host, column.cells.values())) for column in found}
    lengths = [f"{tokens:,}" for tokens, share in busy.items() if share]
    if not lengths:
        return ""
    return (
        f" At {', '.join(lengths)} beside other work on up to {max(busy.values()):.0%} of the "
        "host's processors, for which steps and launches wait."
    )
