"""Benchmarks whose tasks are files of raw rows, read as the benchmarks publish them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from reattention_eval.benchmarks.base import (
    Answer,
    Asked,
    Benchmark,
    Row,
    Task,
    same_number,
)
from reattention_eval.benchmarks.raw_files import read_rows
from reattention_eval.benchmarks.scored import scored
from reattention_eval.datasets.data_dir import data_dir, data_file
from reattention_eval.errors import ConfigError, DataError


@dataclass(frozen=True)
class Ask:
    """One prompt: the user's text, the system's words if any, and how the answer begins.

    `question`, the end of the text behind its document, is found where the document stands in it.
    """

    prompt: str
    system: str = ""
    answer_prefix: str = ""
    question: str | None = None

    def asked(self, document: str) -> str | None:
        """The question; None where the document does not stand in the prompt."""
        at = self.prompt.rfind(document.strip())
        if self.question is not None or not document.strip() or at < 0:
            return self.question
        return self.prompt[at + len(document.strip()) :]


@dataclass(frozen=True)
class Question:
    """One sample: its prompts (nearly always one), and what the scorers want beside the answer.

    Args:
        asks: their predictions together make the sample's.
        reference: as `evaluators.score` takes it.
        document: the text that it is asked about; questions of one document share a prefix.
        scorings: the rules that count this sample.
    """

    asks: tuple[Ask, ...]
    reference: Any
    document: str
    scorings: tuple[str, ...] = ("official", "opencompass")


# a raw row, a task and the name of a prompt set -> the row's questions
Reader = Callable[[Mapping[str, Any], Task, str], Sequence[Question]]
# a task and the predictions of a question's asks -> the prediction that is scored
Joiner = Callable[[Task, Sequence[str]], str]


def first_answer(task: Task, predictions: Sequence[str]) -> str:
    """The joiner of questions with one prompt."""
    return predictions[0]


def jsonl_of_task(task: str) -> tuple[str, ...]:
    """One file a task."""
    return (f"{task}.jsonl",)


@dataclass(frozen=True)
class RawBenchmark(Benchmark):
    """A benchmark whose tasks are files of raw rows.

    Args:
        fields: what every row must have.
        read: asks a row's questions.
        prompts: for each prompt set by name, the texts by which its prompts are known; the first
            set is the one taken if none is named.
        join: makes one prediction of the predictions of a question's prompts.
        selective: some of its questions count under one scoring only.
        places: a task's files.
    """

    fields: tuple[str, ...]
    read: Reader
    prompts: Mapping[str, Mapping[str, str]]
    join: Joiner = first_answer
    selective: bool = False
    places: Callable[[str], tuple[str, ...]] = jsonl_of_task
    cuts: bool = field(default=True, kw_only=True)
    tokenized: bool = field(default=False, kw_only=True)

    def files(self, task: str) -> tuple[str, ...]:
        return self.places(self.task(task).name)

    def prompt_set(self, name: str | None) -> str:
        """The named prompt set, or the first; raises ConfigError for an unknown one."""
        if name is None:
            return next(iter(self.prompts))
        if name not in self.prompts:
            raise ConfigError(
                f"{self.name} has no prompts {name!r}; choose from {', '.join(self.prompts)}."
            )
        return name

    def ask(
        self,
        task: str,
        length: int,
        *,
        chat_template: bool,
        samples: int | None,
        scoring: str,
        prompts: str | None = None,
        seed: int | None = None,
    ) -> Asked:
        """How a task is asked at a length.

        Args:
            prompts: one of the benchmark's prompt sets.
            seed: draws `samples` questions out of all instead of the first so many.
        """
        asked = self.task(task)
        recipe: dict[str, Any] = {"prompts": self.prompt_set(prompts)}
        if samples:
            recipe["samples"] = samples
            if seed is not None:
                recipe["seed"] = seed
        if self.selective:
            recipe["scoring"] = scoring
        named = {"benchmark": self.name, "task": task, **recipe}
        inferencer: dict[str, Any] = {
            "chat_template": chat_template and asked.chat,
            "max_out_len": asked.max_out_len,
            "max_prompt_tokens": length,
            "stopping_criteria": list(asked.stop_words),
        }
        return Asked(
            benchmark=self.name,
            task=task,
            length=length,
            recipe=recipe,
            chat_template=inferencer["chat_template"],
            max_out_len=asked.max_out_len,
            max_prompt_tokens=length,
            stop_words=asked.stop_words,
            scoring=scoring,
            identity=[named, inferencer, self._texts(asked, recipe["prompts"]), self._size(task)],
            facts={**named, "group": asked.group, "length": length, "scoring": scoring},
        )

    def rows(
        self,
        task: str,
        tokenizer: str = "",
        *,
        samples: int | None = None,
        prompts: str | None = None,
        scoring: str = "both",
        seed: int | None = None,
        **recipe: Any,
    ) -> list[Row]:
        """A row a prompt: prompt, question, system, answer_prefix, sample, part, document,
        reference, scorings.

        Rows of one document follow each other, so that each can keep what it shares with the one
        before it. `sample` numbers the questions in the file's order; `part` is 0 but where a
        question has several prompts.

        Args:
            samples: only the first so many questions; with a seed, so many drawn out of all.
            prompts: one of the benchmark's prompt sets.
            scoring: "official" leaves out what the official scores do not count.
            recipe: for `questions`.

        Raises:
            ConfigError: no such task or prompt set.
            DataError: a file is missing, empty, or not in the benchmark's format.
        """
        asked = self.questions(self.task(task), tokenizer, self.prompt_set(prompts), **recipe)
        counted: list[Question] = []
        for question in asked:
            if scoring != "official" or "official" in question.scorings:
                counted.append(question)
            if samples is not None and seed is None and len(counted) >= samples:
                break
        if not counted:
            raise DataError(
                f"{data_dir() / self.name} holds no sample of {task}. Delete its files and fetch "
                f"them with: reattention-eval prepare {self.name}"
            )
        if samples is not None and seed is not None and samples < len(counted):
            drawn = random.Random(f"{self.name} {task} {seed}").sample(range(len(counted)), samples)
            counted = [counted[i] for i in sorted(drawn)]
        return _in_order(counted)

    def questions(
        self, task: Task, tokenizer: str, prompts: str, *args: Any, **recipe: Any
    ) -> Iterable[Question]:
        """Every question of a task, in the order of its files."""
        for where, row in self.raw_rows(task.name):
            with self.reading(where, task):
                asked = self.read(row, task, prompts)
                if odd := [q for q in asked if not isinstance(q.document, str)]:
                    raise TypeError(f"its document is a {type(odd[0].document).__name__}")
            yield from asked

    @contextmanager
    def reading(self, where: str, task: Task) -> Iterator[None]:
        """Raises DataError where a field of a row holds something of another kind."""
        try:
            yield
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise DataError(
                f"{where} is not a row of {self.name}'s {task.name} ({type(error).__name__}: "
                f"{error}). Give the benchmark's own file, or fetch it with: reattention-eval "
                f"prepare {self.name}"
            ) from error

    def raw_rows(self, task: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The rows of a task's files, as they are, each with its place."""
        for name in self.files(task):
            yield from read_rows(data_file(self.name, name), self.fields)

    def result(
        self, task: str, rows: Sequence[Row], answers: Sequence[Answer], scoring: str
    ) -> dict[str, Any]:
        """See `scored`; the predictions of a question's prompts are one."""
        same_number(rows, answers)
        parts: dict[int, list[tuple[int, str]]] = {}
        for row, answer in zip(rows, answers, strict=True):
            parts.setdefault(row["sample"], []).append((row["part"], answer.prediction))
        details = {
            row["sample"]: {
                "index": index,
                "sample": row["sample"],
                "document": row["document"],
                "n_tokens": answer.n_tokens,
                "n_cut": answer.n_cut,
                "reference": row["reference"],
                "prediction": self.join(
                    self.task(task), [text for _, text in sorted(parts[row["sample"]])]
                ),
                "scorings": row["scorings"],
            }
            for index, (row, answer) in enumerate(zip(rows, answers, strict=True))
            if row["part"] == 0
        }
        return scored(self, task, [details[sample] for sample in sorted(details)], scoring)

    def _texts(self, task: Task, prompts: str) -> dict[str, str]:
        """The prompt texts that make this task's prompts: another task's own do not."""
        return {
            name: text
            for name, text in self.prompts[prompts].items()
            if (owner := name.removeprefix("system_")) == task.name or owner not in self.tasks
        }

    def _size(self, task: str) -> Any:
        """Bytes of the task's files, by which other data get another name."""
        places = [data_dir() / self.name / name for name in self.files(task)]
        sizes = [place.stat().st_size if place.is_file() else None for place in places]
        return sizes[0] if len(sizes) == 1 else sizes


def _in_order(questions: Sequence[Question]) -> list[Row]:
    """Rows document by document, and within one all first prompts before all second ones."""
    documents: dict[str, int] = {}
    rows = []
    for sample, question in enumerate(questions):
        document = documents.setdefault(question.document, len(documents))
        for part, ask in enumerate(question.asks):
            rows.append(
                {
                    "prompt": ask.prompt,
                    "system": ask.system,
                    "answer_prefix": ask.answer_prefix,
                    "question": ask.asked(question.document),
                    "sample": sample,
                    "part": part,
                    "document": document,
                    "reference": question.reference,
                    "scorings": list(question.scorings),
                }
            )
    return sorted(rows, key=lambda row: (row["document"], row["part"], row["sample"]))
