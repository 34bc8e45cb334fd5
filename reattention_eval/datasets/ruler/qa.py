"""RULER's question answering: SQuAD and HotpotQA among as many other documents as fit."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from reattention_eval.datasets.data_dir import data_file
from reattention_eval.datasets.ruler.tasks import RulerTask
from reattention_eval.datasets.ruler.units import Question
from reattention_eval.errors import DataError
from reattention_eval.json_text import parse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_DOCUMENT = "Document {i}:\n{document}"
# when the next document is too long, so many others are tried for the room that is left
_TRIED = 40
_ROUNDS = 3
_SLACK = 400  # tokens of documents beyond the budget that must be at hand


@dataclass(frozen=True)
class Asked:
    """A question, its right answers, the documents it needs, and others on its subject."""

    question: str
    answers: list[str]
    needed: list[int]
    related: list[int] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class QuestionSet:
    """`documents`, each once, sorted; questions in the order of the file."""

    documents: list[str]
    questions: list[Asked]


def load_questions(data: str) -> QuestionSet:
    """`"squad"` (answerable questions of SQuAD 2.0 dev) or `"hotpotqa"` (dev, distractor setting).

    Read from REATTENTION_DATA/ruler/{squad,hotpotqa}.json.

    Raises:
        DataError: the file is missing (the sentence names the command that fetches it) or is not
            that data set.
    """
    path = data_file("ruler", f"{data}.json")
    return _load(data, path, path.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _load(data: str, path: Path, _changed: int) -> QuestionSet:
    try:
        content = parse(path.read_bytes())
        return _squad(content) if data == "squad" else _hotpotqa(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not {data}'s development set ({type(error).__name__}: {error}); delete it "
            "and run: reattention-eval prepare ruler"
        ) from error


def _squad(content: dict) -> QuestionSet:  # type: ignore[type-arg]
    articles = [[p["context"] for p in article["paragraphs"]] for article in content["data"]]
    documents = sorted({text for article in articles for text in article})
    place = {text: i for i, text in enumerate(documents)}
    questions = []
    for article in content["data"]:
        own = [place[p["context"]] for p in article["paragraphs"]]
        for paragraph in article["paragraphs"]:
            here = place[paragraph["context"]]
            questions += [
                Asked(
                    qa["question"],
                    [answer["text"] for answer in qa["answers"]],
                    [here],
                    [i for i in own if i != here],
                )
                for qa in paragraph["qas"]
                if not qa["is_impossible"]
            ]
    return QuestionSet(documents, questions)


def _hotpotqa(content: list) -> QuestionSet:  # type: ignore[type-arg]
    def texts(item: dict) -> list[str]:  # type: ignore[type-arg]
        return [f"{title}\n{''.join(sentences)}" for title, sentences in item["context"]]

    documents = sorted({text for item in content for text in texts(item)})
    place = {text: i for i, text in enumerate(documents)}
    questions = [
        Asked(item["question"], [item["answer"]], [place[text] for text in texts(item)])
        for item in content
    ]
    return QuestionSet(documents, questions)


def qa_question(
    tokenizer: PreTrainedTokenizerBase,
    task: RulerTask,
    index: int,
    budget: int,
    rng: random.Random,
    count: Callable[[Question], int],
) -> Question:
    """Question number `index` with its documents among as many others as `budget` tokens hold.

    The others are those on its subject first (SQuAD's article), then any; all in random order.

    Raises:
        DataError: the question's own documents do not fit, or all documents together are too few.
    """
    source = load_questions(task.settings["data"])
    asked = source.questions[index % len(source.questions)]
    taken = list(dict.fromkeys(asked.needed))
    related = rng.sample(asked.related, len(asked.related))
    outside = {*taken, *related}
    others = [i for i in rng.sample(range(len(source.documents)), len(source.documents))
              if i not in outside]  # fmt: skip
    sizes = _sizes(tokenizer, source)
    order = rng.getrandbits(64)

    def make(chosen: list[int]) -> Question:
        mixed = random.Random(order).sample(chosen, len(chosen))
        context = "\n\n".join(
            _DOCUMENT.format(i=i, document=source.documents[j]) for i, j in enumerate(mixed, 1)
        )
        prompt = task.template.format(context=context, query=asked.question)
        return Question(prompt, task.answer_prefix, asked.answers)

    left = budget - count(make(taken))
    if left < 0:
        raise DataError(
            f"question {index} of {task.name} needs {len(taken)} documents that do not fit into "
            f"{budget} tokens; ask for a longer length."
        )
    candidates = [*related, *others]
    # sizes are taken apart from each other, so the room that is really left is filled once more
    for _ in range(_ROUNDS):
        added = _fill(sizes, candidates, left)
        if added is None:
            raise DataError(
                f"all {len(source.documents):,} documents of {task.name} are fewer than {budget} "
                "tokens; ask for a shorter length."
            )
        taken += added
        candidates = [i for i in candidates if i not in set(taken)]
        question = make(taken)
        left = budget - count(question)
        if left < 0 or not added:
            break
    needed = set(asked.needed)
    while (over := count(question) - budget) > 0:
        out = _too_much(sizes, [i for i in taken if i not in needed], over)
        taken = [i for i in taken if i != out]
        question = make(taken)
    return question


class _Sizes:
    """Tokens of documents with their headings, counted when asked for."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, documents: list[str]) -> None:
        self._tokenizer, self._documents = tokenizer, documents
        self._known: dict[int, int] = {}

    def of(self, indices: list[int]) -> list[int]:
        new = [i for i in indices if i not in self._known]
        if new:
            texts = [f"\n\n{_DOCUMENT.format(i=100, document=self._documents[i])}" for i in new]
            ids = self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            self._known.update(zip(new, map(len, ids), strict=True))
        return [self._known[i] for i in indices]


@lru_cache(maxsize=4)
def _sizes(tokenizer: PreTrainedTokenizerBase, source: QuestionSet) -> _Sizes:
    """One table for all samples."""
    return _Sizes(tokenizer, source.documents)


def _fill(sizes: _Sizes, candidates: list[int], space: int) -> list[int] | None:
    """Candidates in order while they fit, then the best of the next ones for the rest of the space;
    None if all of them leave some."""
    chosen: list[int] = []
    at = 0
    while at < len(candidates):
        block = candidates[at : at + _TRIED]
        for step, (index, size) in enumerate(zip(block, sizes.of(block), strict=True)):
            if size > space:
                rest = candidates[at + step : at + step + _TRIED]
                fits = [(s, i) for i, s in zip(rest, sizes.of(rest), strict=True) if s <= space]
                return [*chosen, max(fits)[1]] if fits else chosen
            chosen.append(index)
            space -= size
        at += len(block)
    return chosen if space < _SLACK else None


def _too_much(sizes: _Sizes, chosen: list[int], over: int) -> int:
    """The smallest document that makes up for `over` tokens, or the largest."""
    pairs = sorted(zip(sizes.of(chosen), chosen, strict=True))
    return next((i for size, i in pairs if size >= over), pairs[-1][1])
