"""RULER (Hsieh et al., 2024, arXiv 2404.06654): thirteen tasks at any length."""

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
from reattention_eval.datasets.ruler import (
    RULER_TASKS,
    RulerSample,
    check_ruler_data,
    ruler_samples,
)
from reattention_eval.evaluators.ruler import RULES

# tasks with one answer in one form: how surprised the model is by it can be told
_ONE_ANSWER = ("niah_single_", "niah_multikey_", "qa_")
_SAMPLES = 100


class RulerBenchmark(Benchmark):
    """A length is prompt and new tokens together, in the model's own tokens, as RULER counts."""

    def groups(self) -> dict[str, list[str]]:
        """Also `niah` and `qa`."""
        every = list(self.tasks)
        return {
            "all": every,
            self.name: every,
            "niah": [name for name in every if name.startswith("niah")],
            "qa": [name for name in every if name.startswith("qa")],
        }

    def check(self, task: str, length: int, **options: Any) -> None:
        check_ruler_data(task, length, options.get("haystack", "essays"))

    def ask(
        self,
        task: str,
        length: int,
        *,
        chat_template: bool | None,
        samples: int | None,
        scoring: str,
        seed: int = 42,
        haystack: str = "essays",
    ) -> Asked:
        """A plan may set chat_template, on or off whatever the model's.

        Args:
            samples: 100 if left out.
            haystack: the text of the essay tasks; "long" for lengths beyond the essays.
        """
        asked = self.task(task)
        recipe = {
            "length": int(length), "samples": samples or _SAMPLES, "seed": seed,
            "chat_template": bool(chat_template), "haystack": haystack,
        }  # fmt: skip
        named = {"task": task, **recipe}
        return Asked(
            benchmark=self.name,
            task=task,
            length=length,
            recipe=recipe,
            chat_template=bool(chat_template),
            max_out_len=asked.max_out_len,
            identity=[named, asked.max_out_len],
            facts={"benchmark": self.name, "group": asked.group, **named},
        )

    def rows(
        self,
        task: str,
        tokenizer: str,
        *,
        length: int,
        samples: int,
        seed: int = 42,
        chat_template: bool = False,
        haystack: str = "essays",
    ) -> list[Row]:
        """One row a `RulerSample`: prompt, answer_prefix, reference, and what the NLL scores.

        Raises:
            DataError: data are missing, or too few for `length`.
            ConfigError: no such task, or a length too short for it.
        """
        check_ruler_data(task, length, haystack)
        made = ruler_samples(
            load_tokenizer(tokenizer), task, length=length, samples=samples, seed=seed,
            chat_template=chat_template, haystack=haystack,
        )  # fmt: skip
        return [
            {
                "prompt": sample.prompt,
                "answer_prefix": sample.answer_prefix,
                "continuation": continuation(sample),
                "question": sample.question,
                "reference": sample.answers,
                "length": sample.length,
                "index": sample.index,
            }
            for sample in made
        ]

    def result(
        self, task: str, rows: Sequence[Row], answers: Sequence[Answer], scoring: str
    ) -> dict[str, Any]:
        """`score` (0..100), mean answer NLL per token where there is one, n, details by row."""
        same_number(rows, answers)
        scorer = self.rules["official"][task].scorer
        details = [
            {
                "length": row["length"],
                "index": row["index"],
                "n_tokens": answer.n_tokens,
                "reference": row["reference"],
                "prediction": answer.prediction,
                "answer_nll": answer.answer_nll,
                **scorer([answer.prediction], [row["reference"]]),
            }
            for row, answer in zip(rows, answers, strict=True)
        ]
        figures = scorer(
            [answer.prediction for answer in answers], [row["reference"] for row in rows]
        )
        known = [answer.answer_nll for answer in answers if answer.answer_nll is not None]
        if known:
            figures["answer_nll"] = math.fsum(known) / len(known)
        return {**figures, "n": len(rows), "details": details}


def continuation(sample: RulerSample) -> str | None:
    """The right answer as it follows the prompt; None where it may take several forms."""
    if sample.task.startswith(_ONE_ANSWER):
        return f" {sample.answers[0]}"
    # the worked example of variable tracking shows this form; its begun answer ends with a blank
    return " ".join(sample.answers) if sample.task == "vt" else None


def _group(task: str) -> str:
    """The heading of a task in tables."""
    kind = task.split("_")[0]
    return {"vt": "tracing", "cwe": "aggregation", "fwe": "aggregation"}.get(kind, kind)


RULER = RulerBenchmark(
    name="ruler",
    source="Hsieh et al., 2024, arXiv 2404.06654; github.com/NVIDIA/RULER",
    tasks={
        name: Task(name, _group(name), task.max_out_len, in_paper=False)
        for name, task in RULER_TASKS.items()
    },
    rules=RULES,
)
