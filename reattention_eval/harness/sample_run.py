"""A dataset's samples through one runner: saved as they finish, none run twice."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reattention_eval.errors import SharedGpuError
from reattention_eval.harness.fingerprint import digest, plain, rows_fingerprint
from reattention_eval.harness.live_progress import LiveProgress
from reattention_eval.harness.manifest import (
    environment_part,
    environments,
    method_part,
    model_part,
)
from reattention_eval.harness.one_by_one import outcomes
from reattention_eval.harness.prompt_runner import PromptRunner
from reattention_eval.harness.record_file import KEPT, RecordFile, records_path
from reattention_eval.harness.run_folder import write_whole
from reattention_eval.harness.samples import Output, Sample
from reattention_eval.harness.time_limit import is_over
from reattention_eval.report.pace import Pace
from reattention_eval.report.running_score import scorer_of
from reattention_eval.report.schema import VERSION


@dataclass(frozen=True)
class SampleRun:
    """What is common to the samples of one dataset.

    Next to the predictions file WORK/predictions/MODEL/DATASET.json it leaves
    WORK/records/MODEL/DATASET.jsonl (one line a sample, fields as in `PromptRunner.run`) and
    DATASET.manifest.json. A sample that raises is recorded with its reason, the others go on; the
    predictions file is then withheld, so that the dataset shows as missing and the next run tries
    the failed samples again. So it is where the time was over first: the next run goes on.

    Args:
        max_out_len: new tokens a sample.
        stop_words: end an answer, besides the runner's own.
        max_prompt_tokens: cut prompts to this many tokens, from the middle, as well as to the
            runner's own max_seq_len.
        batch_size: prompts that run together.
        facts: written to the manifest's dataset part as they are (length, style, seed, ...).
        stored_prompt_chars: a longer prompt is stored as head, tail, length and hash.
        until: no sample is begun from then on (`time_limit.run_ends`).
        crowded_ends: nor behind one for which other processes left the GPU no memory: they would
            leave the next none either.
    """

    runner: PromptRunner
    max_out_len: int
    stop_words: Sequence[str] = ()
    max_prompt_tokens: int | None = None
    batch_size: int = 1
    facts: dict[str, Any] = field(default_factory=dict)
    stored_prompt_chars: int = 2000
    log: logging.Logger = field(default_factory=lambda: logging.getLogger(__name__))
    until: float | None = None
    crowded_ends: bool = False

    def __call__(self, samples: Sequence[Sample], golds: Sequence[Any], path: Path) -> list[str]:
        """Predictions in order, also written to `path`; an empty list if one is missing."""
        keys = self._keys(samples)
        records = RecordFile(records_path(path.parent, path.name), keys, self.runner.weights)
        pending = [i for i in range(len(samples)) if i not in records.done]
        manifest = records.path.with_name(path.stem + ".manifest.json")
        earlier = environments(manifest) if records.done else []
        if pending or not earlier:
            write_whole(manifest, self._manifest(path.stem, samples, earlier, len(pending)))
        self.log.info(f"{path.stem}: {len(records.done)} samples on disk, {len(pending)} to run")
        self.runner.forget()  # so that a dataset's figures do not depend on the one before it
        with LiveProgress(path.stem, self._pace(samples, records), self.log) as progress:
            for batch in self._batches(len(samples), records):
                if is_over(self.until):
                    break
                entries = list(self._entries(batch, samples, keys, golds))
                progress.add(records.append(*entries))
                if self.crowded_ends and any(map(is_crowded_out, entries)):
                    break
        if records.failed:
            self.log.error(
                f"{path.stem}: {len(records.failed)} of {len(samples)} samples failed, so no "
                f"predictions are written; their reasons are in {records.path}"
            )
            return []
        if len(records.done) < len(samples):
            self.log.warning(
                f"{path.stem}: the time is over after {len(records.done)} of {len(samples)} "
                "samples; they are kept, and the run goes on from there when it is started again"
            )
            return []
        predictions = {
            str(i): self._prediction(sample, records.done[i]) for i, sample in enumerate(samples)
        }
        write_whole(path, predictions)
        return [entry["prediction"] for entry in predictions.values()]

    def _entries(
        self, batch: Sequence[int], samples: Sequence[Sample], keys: list[str], golds: Sequence[Any]
    ) -> Iterator[dict[str, Any]]:
        """The records of a batch."""
        for index, outcome in self._run(batch, samples):
            entry = {"index": index, "key": keys[index], "gold": plain(golds[index])}
            if self.runner.weights is not None:
                entry["weights"] = self.runner.weights
            if isinstance(outcome, Output):
                yield entry | {"prediction": outcome.text, **outcome.record}
            else:
                yield entry | {"error": outcome}

    def _pace(self, samples: Sequence[Sample], records: RecordFile) -> Pace:
        """What is done already, to go on from."""
        gpu = str(getattr(self.runner.model, "device", "")).startswith("cuda")
        pace = Pace(len(samples), scorer_of(self.facts), gpu)
        pace.add(records.done.values())
        return pace

    def _batches(self, samples: int, records: RecordFile) -> list[list[int]]:
        """What is not done, in the batches in which a run without interruption has it."""
        size = self.batch_size
        starts = range(0, samples, size)
        batches = ([i for i in range(at, min(at + size, samples))] for at in starts)
        pending = ([i for i in batch if i not in records.done] for batch in batches)
        return [batch for batch in pending if batch]

    def _run(
        self, batch: Sequence[int], samples: Sequence[Sample]
    ) -> Iterator[tuple[int, Output | str]]:
        """Outputs of a batch, or reasons."""

        # needles go through the depths: one at neither end
        middle = len(self.facts.get("depths") or samples) // 2

        def run(some: Sequence[int]) -> list[Output]:
            return self.runner.run(
                [replace(samples[i], keep_views=i == middle) for i in some],
                self.max_out_len,
                stop_words=self.stop_words,
                max_prompt_tokens=self.max_prompt_tokens,
            )

        return outcomes(batch, run, self.log, "sample")

    def _keys(self, samples: Sequence[Sample]) -> list[str]:
        """One hash a sample, over all that its prediction depends on."""
        common = [
            self.runner.fingerprint(), self.max_out_len, self.max_prompt_tokens,
            list(self.stop_words),
        ]  # fmt: skip
        splits = self.runner.method.needs_document_end
        return [
            digest(
                [common, s.prompt, s.answer_prefix, s.answer, s.chat_template, s.system]
                + ([s.question] if splits else [])
            )
            for s in samples
        ]

    def _manifest(
        self, dataset: str, samples: Sequence[Sample], earlier: list[Any], pending: int
    ) -> dict[str, Any]:
        """`environment` holds every process that ran samples, the first one first."""
        rows = ([s.prompt, s.answer_prefix, s.answer] for s in samples)
        own = {**environment_part(), "samples_to_run": pending}
        return {
            "version": VERSION,
            "model": model_part(self.runner),
            "method": method_part(self.runner.method),
            "dataset": {
                "abbr": dataset,
                "n": len(samples),
                "fingerprint": rows_fingerprint(rows),
                "max_out_len": self.max_out_len,
                "max_prompt_tokens": self.max_prompt_tokens,
                **plain(self.facts),
            },
            "environment": [*earlier, own],
        }

    def _prediction(self, sample: Sample, record: dict[str, Any]) -> dict[str, Any]:
        prompt = compact(sample.prompt, self.stored_prompt_chars)
        return {"origin_prompt": prompt, **{key: record[key] for key in KEPT}}


def is_crowded_out(record: Mapping[str, Any]) -> bool:
    """Whether a sample failed because other processes held the GPU's memory."""
    return str(record.get("error") or "").startswith(f"{SharedGpuError.__name__}: ")


def compact(prompt: str, limit: int) -> str:
    """The prompt itself up to `limit` characters, else its head, tail, length and hash."""
    if len(prompt) <= limit:
        return prompt
    half = limit // 2
    note = f"[... {len(prompt):,} characters, sha256 {digest(prompt)[:16]} ...]"
    return f"{prompt[:half]}\n{note}\n{prompt[-half:]}"
