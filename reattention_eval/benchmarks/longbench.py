"""LongBench (Bai et al., 2024, arXiv 2308.14508): 21 tasks.

New tokens: config/dataset2maxlen.json of THUDM/LongBench. The paper's runs through OpenCompass gave
qasper 32 of them where the benchmark says 128.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reattention_eval.benchmarks.base import Task
from reattention_eval.benchmarks.prompt_texts import prompt_texts
from reattention_eval.benchmarks.raw import Ask, Question, RawBenchmark
from reattention_eval.evaluators.longbench import RULES

_PROMPTS: dict[str, str] = prompt_texts("longbench")["prompts"]
# group -> tasks and their new tokens
_GROUPS = {
    "single-document-qa": {
        "narrativeqa": 128, "qasper": 128, "multifieldqa_en": 64, "multifieldqa_zh": 64,
    },
    "multi-document-qa": {"hotpotqa": 32, "2wikimqa": 32, "musique": 32, "dureader": 128},
    "summarization": {"gov_report": 512, "qmsum": 512, "multi_news": 512, "vcsum": 512},
    "few-shot-learning": {"trec": 64, "triviaqa": 32, "samsum": 128, "lsht": 64},
    "synthetic": {"passage_count": 32, "passage_retrieval_en": 32, "passage_retrieval_zh": 32},
    "code-completion": {"lcc": 64, "repobench-p": 64},
}  # fmt: skip
# "chat models are better off without build prompts on these tasks" (pred.py)
_NO_CHAT = ("trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p")


def _questions(row: Mapping[str, Any], task: Task, prompts: str) -> Sequence[Question]:
    prompt = _PROMPTS[task.name].format(context=row["context"], input=row["input"])
    reference = {"answers": list(row["answers"]), "all_classes": row["all_classes"]}
    return [Question((Ask(prompt),), reference, row["context"])]


LONGBENCH = RawBenchmark(
    name="longbench",
    source="Bai et al., 2024, arXiv 2308.14508; github.com/THUDM/LongBench",
    rules=RULES,
    tasks={
        name: Task(
            name,
            group,
            new_tokens,
            chat=name not in _NO_CHAT,
            # pred.py ends samsum's answers at a new line
            stop_words=("\n",) if name == "samsum" else (),
        )
        for group, tasks in _GROUPS.items()
        for name, new_tokens in tasks.items()
    },
    fields=("context", "input", "answers", "all_classes"),
    read=_questions,
    prompts={"official": _PROMPTS},
)
