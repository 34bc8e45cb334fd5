"""Records of what OpenCompass's own inferencers ask of a model, one for each text."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reattention_eval.harness.fingerprint import digest
from reattention_eval.harness.one_by_one import outcomes
from reattention_eval.harness.record_file import RecordLines
from reattention_eval.report.records import failed, read_records


@dataclass(frozen=True)
class Answer:
    """What the inferencer is told, and the record of how it came about."""

    value: Any
    record: dict[str, Any]


class CallRecords:
    """Answers the calls of one dataset's inferencer, in their order, and keeps each on disk.

    What is on disk under the same settings is not computed again. A text that raises is recorded
    with its reason and answered with a blank, so that the others go on: whoever runs the inferencer
    has to withhold its predictions where `failures()` says so.

    Args:
        path: the records file.
        settings: hash of everything about model and method that changes an answer.
    """

    def __init__(self, path: Path, settings: str, log: logging.Logger) -> None:
        self._lines = RecordLines(path)
        self._settings = settings
        self._next = 0
        self._log = log
        self._done = {
            str(record["key"]): record
            for record in read_records(path).values()
            if "key" in record and "value" in record and not record.get("error")
        }

    def __call__(
        self,
        asked: Sequence[Any],
        answers: Callable[[Sequence[int]], list[Answer]],
        blank: Any,
    ) -> list[Any]:
        """Values for `asked` (what each depends on); `answers` computes those of some of them."""
        keys = [digest([self._settings, one]) for one in asked]
        places = range(self._next, self._next + len(keys))
        self._next += len(keys)
        values: list[Any] = [blank] * len(keys)
        missing = [i for i, key in enumerate(keys) if key not in self._done]
        for i, key in enumerate(keys):
            if key in self._done:
                values[i] = self._done[key]["value"]
                if self._done[key]["index"] != places[i]:
                    self._lines.append({**self._done[key], "index": places[i]})
        entries = []
        for i, outcome in outcomes(missing, answers, self._log, "text"):
            own = {"index": places[i], "key": keys[i]}
            if isinstance(outcome, str):
                entries.append({**own, "error": outcome})
                continue
            values[i] = outcome.value
            self._done[keys[i]] = {**own, "value": outcome.value, **outcome.record}
            entries.append(self._done[keys[i]])
        if entries:
            self._lines.append(*entries)
        return values

    def failures(self) -> dict[int, str]:
        """Index -> reason of the texts that have no answer."""
        reasons = failed(read_records(self._lines.path))
        return {i: reason for i, reason in reasons.items() if i < self._next}

    @property
    def asked(self) -> bool:
        """Whether anything was asked for."""
        return self._next > 0
