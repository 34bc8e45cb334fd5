"""What predictions files hold: OpenCompass's, one of a dataset or one of each part of it.

An evaluation scores what stands under "0", "1", ... A copy that was cut off, an empty file, or one
that lacks samples is none, though it is there and keeps a run from making it anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from reattention_eval.json_text import read_object
from reattention_eval.report.fields import place_of

REMAKE = "delete it and run the same command again with `-r`, which takes over what records hold."

NO_RECORD = (
    "{} of {} predictions have no readable record, so nothing says whether the method selected "
    "there; delete predictions and result and run again with `-r`."
)


@dataclass(frozen=True)
class Predicted:
    """What is there of a dataset's predictions; `wrong`: why they are not whole, of a file that
    is there."""

    n: int = 0
    wrong: str = ""

    @property
    def whole(self) -> bool:
        return bool(self.n) and not self.wrong


def predicted(work_dir: Path, model: str, dataset: str, asked: int | None) -> Predicted:
    """What an evaluation would find; `asked`: how many samples there are, None: not known."""
    files = _files(work_dir / "predictions" / model, dataset)
    if not files:
        return Predicted()
    found = [_counted(path, *_state(path)) for path in files]
    n = sum(samples for samples, _ in found)
    wrong = next((words for _, words in found if words), "")
    if not wrong and n != (asked or n):
        wrong = f"holds {n:,} of {asked:,} samples"
    return Predicted(n, wrong)


def read_predictions(work_dir: Path, model: str, dataset: str) -> dict[int, dict[str, Any]]:
    """The entries by sample; {} where there is no file.

    Raises:
        ValueError, OSError: a file is damaged, or cannot be read.
    """
    found: dict[int, dict[str, Any]] = {}
    for path in _files(work_dir / "predictions" / model, dataset):
        offset = len(found)
        for key, entry in read_object(path).items():
            if (place := place_of(key)) is not None and isinstance(entry, dict):
                found[offset + place] = entry
    return found


def _files(folder: Path, dataset: str) -> list[Path]:
    """The whole's, else those of its parts, as far as they follow each other."""
    whole = folder / f"{dataset}.json"
    if whole.is_file():
        return [whole]
    return list(takewhile(Path.is_file, (folder / f"{dataset}_{i}.json" for i in count())))


def _state(path: Path) -> tuple[int, int]:
    """Of a file, as long as it is the same."""
    try:
        about = path.stat()
    except OSError:
        return 0, 0
    return about.st_size, about.st_mtime_ns


@lru_cache(maxsize=1 << 14)  # `status --watch` asks again and again
def _counted(path: Path, size: int, changed: int) -> tuple[int, str]:
    """Samples from the first on, and what is wrong with the file."""
    try:
        entries = read_object(path) if size else {}
    except OSError as error:
        return 0, f"cannot be read ({error.strerror or error})"
    except ValueError as error:
        return 0, f"is damaged ({error})"
    n = sum(place_of(key) is not None for key in entries)
    lost = next((i for i in range(n) if not isinstance(entries.get(str(i)), dict)), None)
    if not n:
        return 0, "is empty"
    return n, "" if lost is None else f"lacks sample {lost}"
