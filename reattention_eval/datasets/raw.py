"""Raw benchmark files, one JSON object a line, as rows of prompts.

Files lie in `data_dir()/BENCHMARK/TASK.jsonl`, as the benchmarks publish them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reattention_eval.datasets.data_dir import data_file
from reattention_eval.datasets.infinitebench import INFINITEBENCH
from reattention_eval.datasets.leval import LEVAL
from reattention_eval.datasets.longbench import LONGBENCH
from reattention_eval.datasets.tasks import Question, RawBenchmark, Task
from reattention_eval.errors import ConfigError, DataError
from reattention_eval.json_text import parse

RAW_BENCHMARKS: dict[str, RawBenchmark] = {
    benchmark.name: benchmark for benchmark in (LONGBENCH, LEVAL, INFINITEBENCH)
}


def raw_benchmark(name: str) -> RawBenchmark:
    """Raises ConfigError, naming those that exist, for an unknown benchmark."""
    if name not in RAW_BENCHMARKS:
        raise ConfigError(
            f"there is no raw benchmark {name!r}; choose from {', '.join(RAW_BENCHMARKS)}."
        )
    return RAW_BENCHMARKS[name]


def raw_file(benchmark: str, task: str) -> Path:
    """The task's file, which must be there.

    Raises:
        ConfigError: no such benchmark or task.
        DataError: the file is missing; the sentence names the command that fetches it.
    """
    return data_file(benchmark, f"{raw_benchmark(benchmark).task(task).name}.jsonl")


def load_rows(
    benchmark: str,
    task: str,
    samples: int | None = None,
    prompts: str | None = None,
    scoring: str = "both",
) -> list[dict[str, Any]]:
    """A row a prompt: prompt, system, answer_prefix, sample, part, document, reference, scorings.

    Rows of one document follow each other, so that each can keep what it shares with the one
    before it. `sample` numbers the questions in the file's order; `part` is 0 but where a question
    has several prompts.

    Args:
        samples: only the file's first so many questions.
        prompts: one of the benchmark's prompt sets.
        scoring: "official" leaves out what the official scores do not count.

    Raises:
        ConfigError: no such benchmark, task or prompt set.
        DataError: the file is missing, empty, or not in the benchmark's format.
    """
    source = raw_benchmark(benchmark)
    chosen = source.prompt_set(prompts)
    path = raw_file(benchmark, task)
    questions: list[Question] = []
    for number, row in _read(path):
        missing = [field for field in source.fields if field not in row]
        if missing:
            raise DataError(
                f"line {number} of {path} has no {', '.join(missing)}; found "
                f"{', '.join(row)}. Give the benchmark's own file, or fetch it with: "
                f"reattention-eval prepare {benchmark}"
            )
        asked = _asked(source, row, source.task(task), chosen, f"line {number} of {path}")
        questions += [q for q in asked if scoring != "official" or "official" in q.scorings]
        if samples is not None and len(questions) >= samples:
            break
    if not questions:
        raise DataError(
            f"{path} holds no sample. Delete it and fetch it with: reattention-eval prepare "
            f"{benchmark}"
        )
    return _in_order(questions[:samples])


def _asked(
    source: RawBenchmark, row: Mapping[str, Any], task: Task, prompts: str, where: str
) -> Sequence[Question]:
    """The row's questions; raises DataError where a field holds something of another kind."""
    try:
        asked = source.read(row, task, prompts)
        odd = [q for q in asked if not isinstance(q.document, str)]
        if odd:
            raise TypeError(f"its document is a {type(odd[0].document).__name__}")
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise DataError(
            f"{where} is not a row of {source.name}'s {task.name} ({type(error).__name__}: "
            f"{error}). Give the benchmark's own file, or fetch it with: reattention-eval prepare "
            f"{source.name}"
        ) from error
    return asked


def joined_predictions(
    benchmark: str, task: str, rows: Sequence[Any], predictions: Sequence[str]
) -> dict[int, str]:
    """Each question's prediction by its `sample`, from the predictions of its prompts."""
    source = raw_benchmark(benchmark)
    parts: dict[int, list[tuple[int, str]]] = {}
    for row, prediction in zip(rows, predictions, strict=True):
        parts.setdefault(int(row["sample"]), []).append((int(row["part"]), prediction))
    return {
        sample: source.join(source.task(task), [text for _, text in sorted(found)])
        for sample, found in sorted(parts.items())
    }


def _in_order(questions: Sequence[Question]) -> list[dict[str, Any]]:
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
                    "sample": sample,
                    "part": part,
                    "document": document,
                    "reference": question.reference,
                    "scorings": list(question.scorings),
                }
            )
    return sorted(rows, key=lambda row: (row["document"], row["part"], row["sample"]))


def _read(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = parse(line)
            except ValueError as error:
                raise DataError(
                    f"line {number} of {path} is not JSON ({error}); the file is damaged. Delete "
                    f"it and fetch it with: reattention-eval prepare {path.parent.name}"
                ) from error
            if not isinstance(row, dict):
                raise DataError(
                    f"line {number} of {path} is not a JSON object but {type(row).__name__}; give "
                    "the benchmark's own file."
                )
            yield number, row
