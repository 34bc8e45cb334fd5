"""Any benchmark as an OpenCompass dataset and evaluator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from opencompass.datasets.base import BaseDataset
from opencompass.openicl import BaseEvaluator

from reattention_eval.benchmarks import find_benchmark
from reattention_eval.benchmarks.base import Answer, Row
from reattention_eval.errors import ConfigError
from reattention_eval.harness.arrow import long_texts

# what an inferencer asks for; all else of a row stands in the column `facts`
_ASKED = {"prompt": "", "system": "", "answer_prefix": "", "continuation": None, "question": None}


class BenchmarkDataset(BaseDataset):
    """One task of a benchmark at one length."""

    @staticmethod
    def load(benchmark: str, task: str, tokenizer: str = "", **recipe: Any) -> Dataset:
        """See `Benchmark.rows`; reference and facts are kept as JSON, whatever their shape."""
        rows = find_benchmark(benchmark).rows(task, tokenizer, **recipe)
        return long_texts([_columns(row) for row in rows])


class BenchmarkEvaluator(BaseEvaluator):
    """See `Benchmark.result`."""

    def __init__(self, benchmark: str, task: str, scoring: str = "official") -> None:
        super().__init__()
        self.benchmark = benchmark
        self.task = task
        self.scoring = scoring

    def evaluate(
        self, k: Any, n: int, original_dataset: Any, **score_kwargs: Any
    ) -> dict[str, Any]:
        """As the base class does, but with `details` kept as they are.

        Raises:
            ConfigError: repeats of the same prompts were asked for.
        """
        if n != 1:
            raise ConfigError(
                f"n={n} repeats the same prompts, and decoding is greedy: leave it out, or ask "
                "for more `samples` or `repeats` of prompts that are made."
            )
        return self.score(**score_kwargs)

    def score(
        self,
        predictions: Sequence[str],
        test_set: Dataset,
        answer_nll: Sequence[float | None],
        n_tokens: Sequence[int],
        n_cut: Sequence[int],
    ) -> dict[str, Any]:
        """OpenCompass fills the arguments by their names, from the predictions file."""
        rows = [_row(entry) for entry in test_set.select_columns(["reference", "facts"])]
        # too few of them are found by `result`
        given = zip(predictions, n_tokens, n_cut, answer_nll, strict=False)
        answers = [Answer(*answer) for answer in given]
        return find_benchmark(self.benchmark).result(self.task, rows, answers, self.scoring)


def _columns(row: Row) -> dict[str, Any]:
    facts = {key: value for key, value in row.items() if key not in _ASKED and key != "reference"}
    asked = {key: row.get(key, empty) for key, empty in _ASKED.items()}
    return {**asked, "reference": json.dumps(row["reference"]), "facts": json.dumps(facts)}


def _row(entry: dict[str, str]) -> Row:
    return {"reference": json.loads(entry["reference"]), **json.loads(entry["facts"])}
