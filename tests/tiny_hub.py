"""Three tiny benchmarks as a hub has them, and the lock that belongs to them."""

from __future__ import annotations

import hashlib
import io
import json
import random
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from hub_server import FakeHub

from reattention_eval.datasets.prepare import Finding, Local, load_sources, prepare, select
from reattention_eval.datasets.prepare.lock import Benchmark

LONG, EXAMS, BOOKS = "zai-org/LongBench", "L4NLP/LEval", "xinrongzhang2022/InfiniteBench"


def lines(count: int, seed: int, size: int = 40) -> bytes:
    """JSON objects that do not pack well, one a line."""
    words = random.Random(seed)
    rows = [{"id": i, "context": words.randbytes(size).hex()} for i in range(count)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


NARRATIVE, LCC = lines(20, 1), lines(50, 2)
COURSERA, REVIEWS = lines(15, 3), lines(24, 4)
PASSKEY, BOOK = lines(59, 5), lines(35, 6, size=3000)
ARCHIVE = zipped(
    {"data/narrativeqa.jsonl": NARRATIVE, "data/lcc.jsonl": LCC, "data/lcc_e.jsonl": LCC[:99]}
)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def lock_text(**changes: object) -> str:
    """The lock of this hub; `changes` replace fields of leval's coursera.jsonl."""
    coursera = {"origin": "LEval/Exam/coursera.jsonl", "samples": 15, "sha256": None}
    return json.dumps(
        {
            "longbench": {
                "hub": {"repo": LONG, "revision": "main"},
                "most_bytes": 500_000,
                "archive": {"path": "data.zip", "bytes": len(ARCHIVE), "sha256": sha256(ARCHIVE)},
                "files": {
                    "narrativeqa.jsonl": {
                        "origin": "data/narrativeqa.jsonl",
                        "samples": 20,
                        "sha256": sha256(NARRATIVE),
                    },
                    "lcc.jsonl": {"origin": "data/lcc.jsonl", "samples": 50, "sha256": None},
                },
            },
            "leval": {
                "hub": {"repo": EXAMS, "revision": "main"},
                "most_bytes": 500_000,
                "files": {
                    "coursera.jsonl": coursera | changes,
                    "review_summ.jsonl": {
                        "origin": "LEval/Generation/review_summ.jsonl",
                        "samples": None,
                        "sha256": None,
                        "known": [sha256(REVIEWS)],
                    },
                },
            },
            "infinitebench": {
                "hub": {"repo": BOOKS, "revision": "main"},
                "most_bytes": 500_000,
                "files": {
                    "passkey.jsonl": {"origin": "passkey.jsonl", "samples": 59, "sha256": None},
                    "longbook.jsonl": {
                        "origin": "longbook.jsonl",
                        "samples": 35,
                        "sha256": sha256(BOOK),
                    },
                },
            },
        }
    )


@dataclass
class Place:
    """A data folder, the hub it is filled from, and what was said."""

    folder: Path
    hub: FakeHub
    lock: Path
    said: list[str] = field(default_factory=list)

    def sources(self) -> dict[str, Benchmark]:
        return load_sources(self.lock)

    def prepare(self, *names: str, local: Path | None = None) -> list[Finding]:
        chosen = [b for name in names for b in select(name, self.sources())]
        place = Local(local) if local else None
        done = prepare(chosen, self.folder, local=place, progress=True, say=self.said.append)
        return [finding for _, findings in done for finding in findings]

    def one(self, key: str) -> Finding:
        """What became of one file when its benchmark was prepared."""
        found = {f.file.key: f for f in self.prepare(key.partition("/")[0])}
        return found[key]

    def files(self) -> dict[str, bytes]:
        """Everything in the folder but the record and locks, hidden parts included."""
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file() and path.name not in ("prepared.json", ".prepare.lock")
        }
