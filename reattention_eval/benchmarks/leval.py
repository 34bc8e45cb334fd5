"""L-Eval (An et al., 2024, arXiv 2307.11088): 20 tasks, several instructions a document.

Prompts are those of the benchmark's own run of llama2-chat; its system text stands before the
prompt of a model without a chat turn. New tokens are the paper's; for the two tasks that the paper
left out, the benchmark's 512.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reattention_eval.benchmarks.base import Task
from reattention_eval.benchmarks.prompt_texts import prompt_texts
from reattention_eval.benchmarks.raw import Ask, Question, RawBenchmark
from reattention_eval.evaluators.leval import RULES

_TEXT: dict[str, str] = prompt_texts("leval")["prompts"]
# group -> tasks and their new tokens
_GROUPS = {
    "closed-ended": {
        "tpo": 10, "gsm100": 512, "quality": 10, "coursera": 10, "topic_retrieval_longchat": 30,
        "codeU": 512, "sci_fi": 512,
    },
    "open-ended-qa": {
        "scientific_qa": 64, "multidoc_qa": 64, "natural_question": 50, "financial_qa": 512,
        "legal_contract_qa": 128, "narrative_qa": 50,
    },
    "open-ended-summary": {
        "paper_assistant": 512, "news_summ": 512, "gov_report_summ": 512, "patent_summ": 512,
        "tv_show_summ": 512, "meeting_summ": 512, "review_summ": 512,
    },
}  # fmt: skip
_NOT_IN_PAPER = ("codeU", "sci_fi")
# the document and the instruction with nothing around them
_JOINED = ("gsm100", "codeU", "topic_retrieval_longchat")
# rows for judges, human or not, that the benchmark's automatic scores leave out
_JUDGED = ("human", "LLM")


def _questions(row: Mapping[str, Any], task: Task, prompts: str) -> Sequence[Question]:
    judged = str(row["evaluation"]) in _JUDGED
    return [
        Question(
            _asks(task, row["input"], str(instruction), str(output)),
            str(output),
            row["input"],
            ("opencompass",) if judged else ("official", "opencompass"),
        )
        for instruction, output in zip(row["instructions"], row["outputs"], strict=True)
    ]


def _asks(task: Task, document: str, instruction: str, output: str) -> tuple[Ask, ...]:
    closed = task.group == "closed-ended"
    system = _TEXT.get(f"system_{task.name}", _TEXT["system_exam" if closed else "system_open"])
    shape = "joined" if task.name in _JOINED else "exam" if closed else "open"
    prompt = _TEXT[shape].format(document=document, inst=instruction, words=len(output.split()))
    begun = _TEXT["exam_answer_prefix"] if shape == "exam" else ""
    asked = Ask(prompt, system, begun)
    if task.name != "sci_fi":
        return (asked,)
    # the same question about our own world, without the document
    real = instruction.replace(_TEXT["sci_fi_story"], _TEXT["sci_fi_real"])
    return (asked, Ask(_TEXT["sci_fi_fact"].format(inst=real)))


def _join(task: Task, predictions: Sequence[str]) -> str:
    """Of sci_fi both answers in one, as its references are written: True [fact: False]."""
    return " [fact: ".join(predictions) + "]" if len(predictions) > 1 else predictions[0]


LEVAL = RawBenchmark(
    name="leval",
    source="An et al., 2024, arXiv 2307.11088; github.com/OpenLMLab/LEval",
    rules=RULES,
    tasks={
        name: Task(name, group, new_tokens, in_paper=name not in _NOT_IN_PAPER)
        for group, tasks in _GROUPS.items()
        for name, new_tokens in tasks.items()
    },
    fields=("input", "instructions", "outputs", "evaluation"),
    read=_questions,
    prompts={"official": _TEXT},
    join=_join,
    selective=True,
)
