"""InfiniteBench (Zhang et al., 2024, arXiv 2402.13718): 12 tasks of about 200,000 tokens.

Two of the benchmark's own prompt sets: `gpt4` instructs and is what OpenCompass, and so the paper,
used (but for a few typing errors there); `yarn-mistral` begins the answer, for base models. New
tokens: DATA_NAME_TO_MAX_NEW_TOKENS of src/eval_utils.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from reattention_eval.benchmarks.base import Task
from reattention_eval.benchmarks.prompt_texts import prompt_texts
from reattention_eval.benchmarks.raw import Ask, Question, RawBenchmark
from reattention_eval.errors import DataError
from reattention_eval.evaluators.infinitebench import RULES

_TEXTS = prompt_texts("infinitebench")
_SETS: dict[str, dict[str, str]] = {name: _TEXTS[name] for name in ("gpt4", "yarn-mistral")}
# group -> tasks and their new tokens
_GROUPS = {
    "english-books": {
        "longbook_choice_eng": 40, "longbook_qa_eng": 40, "longbook_sum_eng": 1200,
    },
    "chinese-books": {"longbook_qa_chn": 40},
    "dialogue": {"longdialogue_qa_eng": 40},
    "retrieval": {"passkey": 6, "number_string": 12, "kv_retrieval": 50},
    "math": {"math_find": 3, "math_calc": 30000},
    "code": {"code_run": 5, "code_debug": 5},
}  # fmt: skip
_OPTIONS = "ABCD"


def _questions(row: Mapping[str, Any], task: Task, prompts: str) -> Sequence[Question]:
    facts = {"context": row["context"], "input": row["input"], **_extra(row, task)}
    prompt = _SETS[prompts][task.name].format_map(facts)
    return [Question((Ask(prompt),), _reference(row, task), row["context"])]


def _extra(row: Mapping[str, Any], task: Task) -> dict[str, str]:
    """What a prompt needs besides context and input (create_prompt of src/eval_utils.py)."""
    if _has_options(task):
        return {f"OPTION_{letter}": row["options"][i] for i, letter in enumerate(_OPTIONS)}
    if task.name == "code_run":
        call = _found(r"func_[0-9]+\(-?[0-9]+\)", row, task)
        return {"func_call": call, "func": call.split("(")[0]}
    if task.name == "math_find":
        wanted = _found(r"The .+ of", row, task).lower().removesuffix(" of")
        return {"prefix": f"What is {wanted} in the following list?"}
    return {}


def _found(pattern: str, row: Mapping[str, Any], task: Task) -> str:
    found = re.search(pattern, row["input"])
    if not found:
        raise DataError(
            f"infinitebench/{task.name}: the question {row['input'][:80]!r} has no {pattern!r} in "
            "it; the file is not the benchmark's."
        )
    return found.group()


def _reference(row: Mapping[str, Any], task: Task) -> Any:
    """The row's answer; with options, the answer and its letter (get_answer of the benchmark)."""
    answer = row["answer"]
    if not _has_options(task):
        return answer
    text = answer if isinstance(answer, str) else answer[0]
    if text not in row["options"]:
        raise DataError(
            f"infinitebench/{task.name}: the answer {str(text)[:80]!r} is none of the options; the "
            "file is not the benchmark's."
        )
    return [text, _OPTIONS[row["options"].index(text)]]


def _has_options(task: Task) -> bool:
    return task.name in ("longbook_choice_eng", "code_debug")


INFINITEBENCH = RawBenchmark(
    name="infinitebench",
    source="Zhang et al., 2024, arXiv 2402.13718; github.com/OpenBMB/InfiniteBench",
    rules=RULES,
    tasks={
        name: Task(name, group, new_tokens, in_paper=group == "english-books")
        for group, tasks in _GROUPS.items()
        for name, new_tokens in tasks.items()
    },
    fields=("context", "input", "answer", "options"),
    read=_questions,
    prompts=_SETS,
)
