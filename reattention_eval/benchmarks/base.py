"""What a benchmark is: tasks in groups, the rows of a task, and what answers to them are worth.

A benchmark of one's own is one such object in one file (docs/adding-a-benchmark.md).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reattention_eval.datasets.data_dir import data_file
from reattention_eval.errors import ConfigError
from reattention_eval.evaluators.rules import TaskRule

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# prompt and reference; system, answer_prefix and continuation where there are such; `question`, the
# end of the prompt behind the document that it asks about, where that is known; and what `result`
# wants to see again
Row = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One task and how the benchmark wants it asked.

    Args:
        group: the heading under which the benchmark's tables put it.
        max_out_len: new tokens.
        chat: a chat model is asked in its own turn; False where the benchmark forbids that.
        stop_words: end an answer, behind its first text.
        in_paper: evaluated in the ReAttention paper.
    """

    name: str
    group: str
    max_out_len: int
    chat: bool = True
    stop_words: tuple[str, ...] = ()
    in_paper: bool = True


@dataclass(frozen=True)
class Answer:
    """What became of one row: its text, the tokens that were read and cut, its answer's NLL."""

    prediction: str
    n_tokens: int
    n_cut: int = 0
    answer_nll: float | None = None


@dataclass(frozen=True)
class Asked:
    """One task at one length, as models of one kind (chat or base) are asked it.

    Args:
        recipe: the arguments of `Benchmark.rows` besides task and tokenizer.
        chat_template: the rows' prompts are put in the tokenizer's own chat turn.
        max_prompt_tokens: longer prompts lose their middle; None: never.
        scoring: official, opencompass or both.
        facts: what tables and manifests say of it.
        identity: all that changes an answer, as JSON can hold it; its hash is part of the name.
    """

    benchmark: str
    task: str
    length: int
    recipe: Mapping[str, Any]
    chat_template: bool
    max_out_len: int
    identity: Sequence[Any]
    facts: Mapping[str, Any]
    scoring: str = "official"
    max_prompt_tokens: int | None = None
    stop_words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark(ABC):
    """A benchmark; `ask` says how a task is asked, `rows` makes its prompts, `result` scores.

    Args:
        name: in plans, tables and folders.
        source: paper and repository, where prompts, settings and rules come from.
        tasks: by name, in the order of the tables.
        rules: by scoring and task; "official" has every task.
        cuts: a length is the most that is kept of a prompt; else prompts are made, or chosen, to
            have it.
        tokenized: the rows depend on the model's tokenizer.
        plan_has_tasks: a plan's settings belong to its own tasks: a variable leaves some out and
            puts no others in.
    """

    name: str
    source: str
    tasks: Mapping[str, Task]
    rules: Mapping[str, Mapping[str, TaskRule]]
    cuts: bool = field(default=False, kw_only=True)
    tokenized: bool = field(default=True, kw_only=True)
    plan_has_tasks: bool = field(default=False, kw_only=True)

    # `*args: Any, **: Any` lets a benchmark name its own keywords
    @abstractmethod
    def ask(self, task: str, length: int, *args: Any, **options: Any) -> Asked:
        """How `task` is asked at `length`.

        Keywords: chat_template (the model is asked in its chat turn), samples (the first so many;
        None: all), scoring, and what a plan may say to this benchmark.
        """

    @abstractmethod
    def rows(self, task: str, tokenizer: str, *args: Any, **recipe: Any) -> list[Row]:
        """The task's prompts; the keywords are the recipe that `ask` gave.

        Args:
            tokenizer: folder or hub id, for `load_tokenizer` where prompts depend on it.

        Raises:
            DataError: data are missing, or not in the benchmark's format.
        """

    @abstractmethod
    def result(
        self, task: str, rows: Sequence[Row], answers: Sequence[Answer], scoring: str
    ) -> dict[str, Any]:
        """`score` (0..100), further figures, `n`, and `details` sample by sample.

        Args:
            rows: those of `rows`, their prompts aside.
        """

    def files(self, task: str) -> tuple[str, ...]:
        """What the task needs in the benchmark's folder of `data_dir()`."""
        return ()

    def check(self, task: str, length: int, **options: Any) -> None:
        """Nothing if all that the task needs is on this machine.

        Raises:
            DataError: it is not; the sentence names the command that fetches it.
        """
        for name in self.files(task):
            data_file(self.name, name)

    def default_tasks(self, options: dict[str, Any]) -> str | Sequence[str]:
        """What a plan asks for: tasks, or a group's name; taken out of `options`."""
        tasks: str | Sequence[str] = options.pop("tasks", "all")
        return tasks

    def task(self, name: str) -> Task:
        """Raises ConfigError, naming those that exist, for an unknown task."""
        if name not in self.tasks:
            raise ConfigError(
                f"{self.name} has no task {name!r}; choose from {', '.join(self.tasks)}."
            )
        return self.tasks[name]

    def groups(self) -> dict[str, list[str]]:
        """Task names by what can be asked for together: all (or the benchmark's name), paper,
        other, and each heading."""
        groups = {
            "all": list(self.tasks),
            self.name: list(self.tasks),
            "paper": [task.name for task in self.tasks.values() if task.in_paper],
            "other": [task.name for task in self.tasks.values() if not task.in_paper],
        }
        for task in self.tasks.values():
            groups.setdefault(task.group, []).append(task.name)
        return {name: tasks for name, tasks in groups.items() if tasks}


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, without its weights."""
    from reattention_eval.checkpoints import load_model

    tokenizer: PreTrainedTokenizerBase = load_model(path, tokenizer_only=True)[1]
    return tokenizer


def same_number(rows: Sequence[Row], answers: Sequence[Answer]) -> None:
    """Raise ConfigError unless every row has its answer."""
    if len(answers) != len(rows):
        raise ConfigError(
            f"{len(answers)} predictions for {len(rows)} prompts: the data or settings have "
            "changed under this name since they were made. Run again without `-r`."
        )
