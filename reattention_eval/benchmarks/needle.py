"""Needle in a haystack, single, parallel and at many depths: a style is a task."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reattention_eval.benchmarks.base import (
    Answer,
    Asked,
    Benchmark,
    Row,
    Task,
    load_tokenizer,
    same_number,
)
from reattention_eval.datasets import (
    ParallelSample,
    check_haystack,
    many_depths_samples,
    needle_samples,
    parallel_samples,
)
from reattention_eval.datasets.needle import check_asked, haystack_space
from reattention_eval.datasets.needle_facts import facts_digest
from reattention_eval.datasets.needle_many import MANY_DEPTHS, fixed_tokens
from reattention_eval.datasets.needle_styles import make_needle
from reattention_eval.evaluators.needle import RULES
from reattention_eval.prompts import prepare_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PARALLEL = "parallel"
_ONE_HAYSTACK = (PARALLEL, MANY_DEPTHS)  # all depths in it
_STYLES = tuple(RULES["official"])


class NeedleBenchmark(Benchmark):
    """Every prompt has the asked length, the chat template's tokens included.

    At many depths the longest question of a haystack has it, see `many_depths_samples`.
    """

    def default_tasks(self, options: dict[str, Any]) -> str | Sequence[str]:
        """A plan names its style."""
        return [str(options.pop("style", _STYLES[0]))]

    def groups(self) -> dict[str, list[str]]:
        return {"all": list(_STYLES), self.name: list(_STYLES)}

    def check(self, task: str, length: int, **options: Any) -> None:
        check_haystack(options.get("haystack", "essays"), length)

    def ask(
        self,
        task: str,
        length: int,
        *,
        chat_template: bool | None,
        samples: int | None,
        scoring: str,
        depths: Sequence[float],
        repeats: int,
        haystack: str = "essays",
        seed: int = 0,
        max_out_len: int = 16,
    ) -> Asked:
        """A plan may set chat_template, on or off whatever the model's.

        Args:
            samples: only the first so many prompts of a length.
            depths: percent of the haystack before the needle.
        """
        recipe: dict[str, Any] = {
            "length": int(length),
            "depths": [float(depth) for depth in depths],
            "repeats": int(repeats),
            "seed": seed,
            "chat_template": bool(chat_template),
            "haystack": haystack,
        }
        if samples is not None:
            recipe["samples"] = samples
        named = {"style": task, **recipe}
        # texts that are not in the recipe but change a prompt
        unsaid = [facts_digest()] if task in ("needlebench", PARALLEL) else []
        facts = {"benchmark": self.name, "task": task, **named}
        if task in _ONE_HAYSTACK:
            facts["haystacks"] = int(repeats)
        return Asked(
            benchmark=self.name,
            task=task,
            length=length,
            recipe=recipe,
            chat_template=bool(chat_template),
            max_out_len=max_out_len,
            identity=[named, max_out_len, *unsaid],
            facts=facts,
        )

    def rows(
        self,
        task: str,
        tokenizer: str,
        *,
        length: int,
        depths: Sequence[float],
        repeats: int,
        seed: int = 0,
        chat_template: bool = False,
        haystack: str = "essays",
        samples: int | None = None,
    ) -> list[Row]:
        """One row a `datasets.NeedleSample`: its fields, and `continuation`, which the NLL scores.

        Rows go repeat by repeat through the depths, so that neighbours share the text before the
        needle; with the style "many_depths" the whole haystack, whose number `repeat` then is.
        With the style "parallel" a row holds all depths (`datasets.ParallelSample`) and has no
        continuation.

        Raises:
            DataError: the haystack is missing, or smaller than `length`.
        """
        check_haystack(haystack, length)
        if samples is not None:
            a_repeat = 1 if task == PARALLEL else len(depths)
            repeats = min(repeats, math.ceil(samples / a_repeat))
        loaded = load_tokenizer(tokenizer)
        ask: dict[str, Any] = {
            "length": length, "depths": list(depths), "repeats": repeats, "seed": seed,
            "chat_template": chat_template,
        }  # fmt: skip
        if task == PARALLEL:
            made = parallel_samples(loaded, haystack, **ask)
            return [_parallel_row(sample) for sample in made[:samples]]
        singles = (
            many_depths_samples(loaded, haystack, **ask)
            if task == MANY_DEPTHS
            else needle_samples(loaded, haystack, style=task, **ask)
        )
        rows = [{**dataclasses.asdict(s), "continuation": s.continuation} for s in singles]
        return sorted(rows, key=lambda row: (row["repeat"], row["depth"]))[:samples]

    def result(
        self, task: str, rows: Sequence[Row], answers: Sequence[Answer], scoring: str
    ) -> dict[str, Any]:
        """accuracy and the paper's score, mean answer NLL per token, n, and details by row."""
        same_number(rows, answers)
        if task == PARALLEL:
            return _parallel_result(rows, answers)
        scorer = self.rules["official"][task].scorer
        details = [
            {
                **{key: row[key] for key in ("length", "depth", "repeat", "reference")},
                "n_tokens": answer.n_tokens,
                "prediction": answer.prediction,
                "answer_nll": answer.answer_nll,
                **scorer([answer.prediction], [row["reference"]]),
            }
            for row, answer in zip(rows, answers, strict=True)
        ]
        return {**_means(details), "n": len(details), "details": details}


def check_needles(
    tokenizer: PreTrainedTokenizerBase,
    *,
    length: int,
    depths: Sequence[float],
    repeats: int,
    style: str,
    chat_template: bool,
) -> None:
    """Raise ConfigError where it is known, without the haystack, that no prompts can be made."""
    check_asked(tokenizer, length, depths, repeats)
    if style == MANY_DEPTHS:
        fixed = fixed_tokens(tokenizer, depths, chat_template)
    else:
        bare = "a" if style == PARALLEL else make_needle(style, 0, 0, "").bare
        fixed = prepare_prompt(tokenizer, bare, chat_template=chat_template).n_tokens
    haystack_space(length, fixed)


def _parallel_row(sample: ParallelSample) -> Row:
    row = {
        "prompt": sample.prompt, "reference": sample.reference, "question": sample.question,
    }  # fmt: skip
    return {**row, "length": sample.length, "repeat": sample.repeat}


def _parallel_result(rows: Sequence[Row], answers: Sequence[Answer]) -> dict[str, Any]:
    """The mean hit rate over the depths; a detail for each needle, `n` counts prompts."""
    scorer = RULES["official"][PARALLEL].scorer
    references = [row["reference"] for row in rows]
    mean = scorer([answer.prediction for answer in answers], references)["score"]
    details = []
    for row, answer in zip(rows, answers, strict=True):
        for name, share in scorer([answer.prediction], [row["reference"]]).items():
            if name.startswith("depth_"):
                depth = float(name.removeprefix("depth_"))
                kept = {key: row[key] for key in ("length", "repeat", "reference")}
                hit = {"depth": depth, "accuracy": share, "score": share}
                read = {"n_tokens": answer.n_tokens, "prediction": answer.prediction}
                details.append({**kept, **hit, **read})
    return {"score": mean, "n": len(rows), "details": details}


def _means(details: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    out = {}
    for key in ("accuracy", "score", "answer_nll"):
        values = [d[key] for d in details if d.get(key) is not None]
        if values:
            out[key] = math.fsum(values) / len(values)
    return out


NEEDLE = NeedleBenchmark(
    name="needle",
    source="Li et al., 2024, arXiv 2407.11963 (NeedleBench), and needles of others by style",
    tasks={style: Task(style, "needle", max_out_len=16) for style in _STYLES},
    rules=RULES,
    plan_has_tasks=True,
)
