"""Needle-in-a-haystack as an OpenCompass dataset and evaluator."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from opencompass.datasets.base import BaseDataset
from opencompass.openicl import BaseEvaluator

from reattention_eval.checkpoints import load_model
from reattention_eval.datasets import essays_file, load_haystack, needle_samples
from reattention_eval.errors import ConfigError, DataError
from reattention_eval.evaluators import score


def check_haystack(source: str) -> None:
    """Raise DataError unless the text is here already: evaluation downloads nothing."""
    if source == "essays" and not essays_file().is_file():
        raise DataError(
            f"the essays are not in the cache (looked for {essays_file()}). Fetch them with: "
            "reattention-eval prepare demo"
        )
    if source != "essays" and not Path(source).expanduser().is_file():
        raise DataError(
            f"there is no haystack {source}; give the path of a text file, or 'essays'."
        )


class NeedleDataset(BaseDataset):
    """One prompt length with all its depths and repeats; a row is a `datasets.NeedleSample`.

    Rows go repeat by repeat through the depths, so that neighbours share the text before the
    needle. `length` counts every token that is run, the chat template's included.
    """

    @staticmethod
    def load(
        tokenizer: str,
        length: int,
        depths: Sequence[float],
        repeats: int,
        seed: int = 0,
        chat_template: bool = False,
        style: str = "magic_number",
        haystack: str = "essays",
    ) -> Dataset:
        """Columns as the sample's fields, and `continuation`, the text the answer NLL scores.

        Raises:
            DataError: the haystack is missing, or smaller than `length`.
        """
        check_haystack(haystack)
        _, loaded = load_model(tokenizer, tokenizer_only=True)
        samples = needle_samples(
            loaded,
            load_haystack(haystack),
            length=length,
            depths=list(depths),
            repeats=repeats,
            seed=seed,
            chat_template=chat_template,
            style=style,
        )
        rows = [{**dataclasses.asdict(s), "continuation": s.continuation} for s in samples]
        rows.sort(key=lambda row: (row["repeat"], row["depth"]))
        return Dataset.from_list(rows)


class NeedleEvaluator(BaseEvaluator):
    """accuracy and the paper's score (0..100), mean answer NLL per token, n; depths in details."""

    def __init__(self, style: str = "magic_number", scoring: str = "official") -> None:
        super().__init__()
        self.style = style
        self.scoring = scoring

    def evaluate(
        self, k: Any, n: int, original_dataset: Any, **score_kwargs: Any
    ) -> dict[str, Any]:
        """As the base class does, but with `details` kept as they are."""
        if n != 1:
            raise ConfigError(f"n={n} repeats the same prompts; ask for more `repeats` instead.")
        return self.score(**score_kwargs)

    def score(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        test_set: Dataset,
        answer_nll: Sequence[float | None],
        n_tokens: Sequence[int],
    ) -> dict[str, Any]:
        if len(predictions) != len(references):
            raise ConfigError(
                f"{len(predictions)} predictions for {len(references)} needles: the dataset's "
                "settings changed under its name. Run again without `-r`."
            )
        rows = test_set.remove_columns(
            [c for c in ("prompt", "answer_prefix") if c in test_set.column_names]
        )
        details = []
        for row, text, answer, nll, tokens in zip(
            rows, predictions, references, answer_nll, n_tokens, strict=True
        ):
            details.append(
                {
                    "length": row["length"],
                    "depth": row["depth"],
                    "repeat": row["repeat"],
                    "n_tokens": tokens,
                    "answer": answer,
                    "prediction": text,
                    "answer_nll": nll,
                    **score("needle", self.style, [text], [answer], scoring=self.scoring),
                }
            )
        return {**_means(details), "n": len(details), "details": details}


def _means(details: Sequence[dict[str, Any]]) -> dict[str, float]:
    out = {}
    for key in ("accuracy", "score", "answer_nll"):
        values = [d[key] for d in details if d.get(key) is not None]
        if values:
            out[key] = math.fsum(values) / len(values)
    return out
