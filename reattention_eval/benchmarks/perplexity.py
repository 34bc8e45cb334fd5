"""How surprised a model is by a long text, by how much of it was read before.

The measure of Press et al., 2022 (arXiv 2108.12409) and Xiao et al., 2024 (arXiv 2309.17453), here
at chosen places: the NLL of the next tokens behind a beginning of the text, teacher forced.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from reattention_eval.benchmarks.base import (
    Answer,
    Asked,
    Benchmark,
    Row,
    Task,
    load_tokenizer,
    same_number,
)
from reattention_eval.datasets import check_haystack
from reattention_eval.datasets.token_index import HaystackIndex, enough_text
from reattention_eval.errors import ConfigError
from reattention_eval.evaluators.rules import TaskRule

_TASK = "by_position"
_FIRST = 1024  # tokens before the first place
_SEAM = 400  # characters in which a place looks for two words


class PerplexityBenchmark(Benchmark):
    """A length is the furthest place in the text, in the model's own tokens.

    Places go down from it by equal ratios. All prompts are beginnings of the longest, which comes
    first: one prefill serves them all, and every figure is what the beginning alone gives.
    """

    def check(self, task: str, length: int, **options: Any) -> None:
        check_haystack(options.get("haystack", _BOOK), length)

    def ask(
        self,
        task: str,
        length: int,
        *,
        chat_template: bool | None,
        samples: int | None,
        scoring: str,
        points: int = 4,
        tokens: int = 128,
        haystack: str = "",
    ) -> Asked:
        """A text has no chat turn, whatever the model.

        Args:
            samples: only the furthest so many places.
            points: places from one length to twice that.
            tokens: scored at each place.
            haystack: the text; Shakespeare's plays, then the other built-in texts.
        """
        self.task(task)
        recipe: dict[str, Any] = {
            "length": int(length), "points": int(points), "tokens": int(tokens),
            "haystack": haystack or _BOOK,
        }  # fmt: skip
        if samples is not None:
            recipe["samples"] = samples
        return Asked(
            benchmark=self.name,
            task=task,
            length=length,
            recipe=recipe,
            chat_template=False,
            max_out_len=1,
            identity=[task, recipe],
            facts={"benchmark": self.name, "task": task, "group": "language modelling", **recipe},
        )

    def rows(
        self,
        task: str,
        tokenizer: str,
        *,
        length: int,
        points: int = 4,
        tokens: int = 128,
        haystack: str = "",
        samples: int | None = None,
    ) -> list[Row]:
        """A row a place, the furthest first: the text before it, `continuation`, the tokens that
        the NLL scores, and `position`, about how many tokens stand before their end.

        Raises:
            ConfigError: no room for a single place.
            DataError: the text is missing, or shorter than `length`.
        """
        if points < 1 or tokens < 1 or length < _FIRST + tokens:
            raise ConfigError(
                f"nothing to score at {length} tokens with {points} places of {tokens} tokens; ask "
                f"for at least one place of one token, and {_FIRST + tokens} tokens."
            )
        check_haystack(haystack or _BOOK, length)
        index = enough_text(load_tokenizer(tokenizer), haystack or _BOOK, length)
        rows: list[Row] = []
        for i in range(samples or length):
            position = round(length * 2 ** (-i / points))
            if position < _FIRST + tokens:
                break
            rows.append(_row(index, position, tokens))
        return rows

    def result(
        self, task: str, rows: Sequence[Row], answers: Sequence[Answer], scoring: str
    ) -> dict[str, Any]:
        """Mean NLL per token over the places, its exponential, n places, and details by place."""
        same_number(rows, answers)
        details = [
            {
                "position": row["position"],
                "n_tokens": answer.n_tokens,
                "answer_nll": answer.answer_nll,
                "reference": row["reference"],
                "prediction": answer.prediction,
            }
            for row, answer in zip(rows, answers, strict=True)
        ]
        mean = math.fsum(float(d["answer_nll"]) for d in details) / len(details)
        return {
            "answer_nll": mean,
            "perplexity": math.exp(mean),
            "n": len(details),
            "details": details,
        }


def _row(index: HaystackIndex, position: int, tokens: int) -> Row:
    begin = _between_words(index, index.shift(0, position - tokens), 0)
    end = _between_words(index, index.shift(begin, tokens), begin + 1)
    following = index.text[begin:end]
    return {
        "prompt": index.text[:begin],
        "continuation": following,
        "reference": following,
        "position": position,
    }


def _between_words(index: HaystackIndex, place: int, least: int) -> int:
    """A clean cut near `place`, rather before it, but not before `least`; else `place` itself: a
    text cut there has the same tokens as the whole."""
    for back in (20, 60, 150, _SEAM):
        cut = index.clean_cut(max(place - back, least), place)
        if cut is not None:
            return cut
    cut = index.clean_cut(place, place + _SEAM)
    return place if cut is None else cut


def _unscored(predictions: Sequence[str], references: Sequence[Any]) -> dict[str, float]:
    raise ConfigError("perplexity scores likelihoods, not texts; it needs the model's own run.")


_BOOK = "shakespeare+essays+wikipedia"
PERPLEXITY = PerplexityBenchmark(
    name="perplexity",
    source="Press et al., 2022, arXiv 2108.12409; Xiao et al., 2024, arXiv 2309.17453",
    tasks={_TASK: Task(_TASK, "language modelling", 1, chat=False, in_paper=False)},
    rules={"official": {_TASK: TaskRule("answer_nll", _unscored)}},
)
