"""Prompts on disk: made once for all methods, or on another machine than the one that answers."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

from reattention_eval.benchmarks import find_benchmark
from reattention_eval.benchmarks.base import Row, load_tokenizer
from reattention_eval.checkpoints.registry import locked
from reattention_eval.datasets.token_index import tokenizer_digest
from reattention_eval.errors import DataError
from reattention_eval.harness.compose import Job
from reattention_eval.harness.run_folder import write_whole
from reattention_eval.json_text import parse


def kept_rows(job: Job, folder: Path | None) -> list[Row]:
    """The job's rows (`Benchmark.rows`): those in `folder` under the job's name, else made, and
    kept there; None keeps nothing.

    A file's name holds that of the dataset, which changes with all that a plan says, and, where
    prompts depend on it, a hash of the tokenizer. Rows made by another version of this package
    stay what they were: make a new folder for each version.

    Raises:
        DataError: as `Benchmark.rows`; a file that is damaged.
    """
    asked, benchmark, path = job.asked, find_benchmark(job.benchmark), str(job.model["path"])
    if folder is None:
        return benchmark.rows(asked.task, path, **asked.recipe)
    mark = f"-{_tokenizer(path)}" if benchmark.tokenized else ""
    file = folder / f"{job.dataset}{mark}.json"
    if file.is_file():
        return _read(file)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(file):  # processes of other methods wait for the prompts instead of making them too
        if file.is_file():
            return _read(file)
        rows = benchmark.rows(asked.task, path, **asked.recipe)
        write_whole(file, rows)
    logging.info(f"{len(rows)} prompts in {file}")
    return rows


def _read(file: Path) -> list[Row]:
    try:
        rows = parse(file.read_bytes())
        if isinstance(rows, list) and all(isinstance(row["prompt"], str) for row in rows):
            return rows
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged ({error}); delete it, and it is made again.") from error
    raise DataError(f"{file} holds no prompts; delete it, and they are made again.")


@cache
def _tokenizer(path: str) -> str:
    return tokenizer_digest(load_tokenizer(path))[:8]
