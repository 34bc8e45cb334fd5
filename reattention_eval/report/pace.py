"""How far one dataset is and how fast it goes, from its records alone."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reattention_eval.machine_memory import GIB
from reattention_eval.report.running_score import NLL, Scorer


@dataclass
class Pace:
    """Samples that are done, added one by one.

    Args:
        total: samples of the dataset; None: not known.
        score: of one record, for the running mean.
        gpu: `peak_bytes` of records are a GPU's.
    """

    total: int | None
    score: Scorer | None = None
    gpu: bool = False
    done: int = 0
    failed: int = 0
    peak_bytes: int = 0
    last: float | None = None  # when the last sample was finished, seconds since the epoch
    figure: str = "score"
    _tokens: int = 0
    _seconds: float = 0.0
    _timed: int = 0
    _scores: list[float] = field(default_factory=list)

    def add(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Of samples that finished, each once."""
        for record in records:
            if isinstance(end := record.get("finished"), (int, float)):
                self.last = max(self.last or 0.0, end)
            if record.get("error"):
                self.failed += 1
                continue
            self.done += 1
            self.peak_bytes = max(self.peak_bytes, int(record.get("peak_bytes") or 0))
            if took := _seconds(record):
                read = int(record.get("n_tokens") or 0) - int(record.get("reused_tokens") or 0)
                self._tokens += max(0, read) + int(record.get("new_tokens") or 0)
                self._seconds += took
                self._timed += 1
            if self.score and (found := self.score(record)):
                self.figure = found[0]
                self._scores.append(found[1])

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens read and written, of the whole time that samples took."""
        return self._tokens / self._seconds if self._seconds else None

    @property
    def seconds_each(self) -> float | None:
        """Of a sample, on average."""
        return self._seconds / self._timed if self._timed else None

    @property
    def mean_score(self) -> float | None:
        """Of the samples that are done."""
        return sum(self._scores) / len(self._scores) if self._scores else None

    @property
    def score_words(self) -> str:
        """`accuracy 83.3`, `score 41.0` or `answer_nll 2.314`; empty without any."""
        mean = self.mean_score
        return "" if mean is None else f"{self.figure} {mean:.{3 if self.figure == NLL else 1}f}"

    def ends(self, now: float | None = None) -> float | None:
        """When the last sample will be done if the rest goes like what is done; seconds since the
        epoch."""
        if self.total is None or not self._timed:
            return None
        left = max(0, self.total - self.done - self.failed)
        each = self.seconds_each or 0.0
        now = time.time() if now is None else now
        since = 0.0 if self.last is None else min(max(0.0, now - self.last), each)
        return now + left * each - (since if left else 0.0)

    def words(self, running: bool = True) -> str:
        """`12 of 50 prompts, 1,234 tokens/s, accuracy 83.3, ends 16:05, GPU memory 41.2 GiB`."""
        total = "?" if self.total is None else f"{self.total:,}"
        parts = [f"{self.done:,} of {total} prompts"]
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        if self.tokens_per_second is not None:
            parts.append(f"{self.tokens_per_second:,.0f} tokens/s")
        if self.score_words:
            parts.append(self.score_words)
        if running and (end := self.ends()) is not None:
            parts.append(f"ends {clock(end)}")
        if self.peak_bytes:
            parts.append(f"{self.memory} {self.peak_bytes / GIB:.1f} GiB")
        return ", ".join(parts)

    @property
    def memory(self) -> str:
        """What `peak_bytes` is of."""
        return "GPU memory" if self.gpu else "memory"


def clock(moment: float) -> str:
    """A time of today, or of another day, in the local zone."""
    try:
        at, today = time.localtime(moment), time.localtime()
    except (ValueError, OverflowError, OSError):
        return "in the far future"
    same = at[:3] == today[:3]
    return time.strftime("%H:%M" if same else "%Y-%m-%d %H:%M", at)


def _seconds(record: Mapping[str, Any]) -> float:
    """What the sample took by itself; records of version 1 say it of the whole batch, without what
    lies between samples."""
    took = record.get("seconds")
    if took is None:
        known = (record.get(key) or 0.0 for key in ("prefill_seconds", "decode_seconds"))
        took = sum(known) / max(1, int(record.get("batch_size") or 1))
    return float(took)
