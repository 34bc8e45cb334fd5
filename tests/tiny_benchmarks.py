"""Small files in the raw formats of LongBench, L-Eval and InfiniteBench, one for each task."""

# ruff: noqa: RUF001 (Chinese punctuation)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reattention_eval.benchmarks import find_benchmark

RAW_BENCHMARKS = {name: find_benchmark(name) for name in ("longbench", "leval", "infinitebench")}

STORY = "The dog runs over the hill. The fox reads an essay and thinks of the result. "
CHINESE = "北京是中国的首都，上海在长江的入海口。"
SUMMARY = "The dog runs over the hill while the fox reads an essay about the result."

_LONGBENCH: dict[str, tuple[str, list[str]]] = {  # input, answers
    "multifieldqa_zh": ("中国的首都在哪里？", ["北京"]),
    "dureader": ("上海在哪里？", ["长江的入海口"]),
    "vcsum": ("", ["会议讨论了北京和上海的发展。"]),
    "gov_report": ("", [SUMMARY]),
    "qmsum": ("What does the fox do?", [SUMMARY]),
    "multi_news": ("", [SUMMARY]),
    "trec": ("Question: Where is the dog?\nType:", ["Location"]),
    "triviaqa": (
        "Passage:\nThe fox thinks.\nQuestion:\nWho thinks?\nAnswer:\n",
        ["the fox", "fox"],
    ),
    "samsum": ("Dialogue: Dog: Hill? Fox: Essay.\nSummary: ", [SUMMARY]),
    "lsht": ("新闻内容：北京\n类别：", ["城市"]),
    "passage_count": ("", ["7"]),
    "passage_retrieval_en": ("A fox thinks of a result.", ["Paragraph 3"]),
    "passage_retrieval_zh": ("上海的摘要", ["段落3"]),
    "lcc": ("", ["    return dog.run(hill)"]),
    "repobench-p": ("def run(dog):\n", ["    return dog.run(hill)"]),
}
_CLASSES = {"trec": ["Location", "Number", "Person"], "lsht": ["城市", "体育", "财经"]}

_INFINITEBENCH: dict[str, tuple[str, Any, list[str]]] = {  # input, answer, options
    "longbook_choice_eng": (
        "Who reads?", ["The fox"], ["The dog", "The fox", "The hill", "The essay"],
    ),
    "longbook_qa_eng": ("Who reads an essay?", ["the fox", "fox"], []),
    "longbook_sum_eng": ("", [SUMMARY], []),
    "longbook_qa_chn": ("中国的首都在哪里？", ["北京"], []),
    "longdialogue_qa_eng": ("Which character is $$MASK$$ ?", ["FOX", "THE FOX"], []),
    "passkey": ("What is the pass key?", ["71432"], []),
    "number_string": ("What is the sequence of digits?", ["3000077442"], []),
    "kv_retrieval": ("Key: \"a1\"\nThe value associated with the specified key is: ", ["b2"], []),
    "math_find": (
        "You should answer with only one number, no other words. "
        "The largest number of the list is: ", 88, [],
    ),
    "math_calc": ("1 + 2 + 3", [1, 3, 6], []),
    "code_run": ("Please give me the exact number of the return value of func_7(-3).", 4, []),
    "code_debug": ("", ["run_dog"], ["read_fox", "run_dog", "climb_hill", "write_essay"]),
}  # fmt: skip

_LEVAL: dict[str, list[tuple[str, str]]] = {  # instruction, output
    "coursera": [("Question 1. What runs?\nA. Dog\nB. Fox\nC. Both\nD. None", "AC")],
    "quality": [("Who reads?\n(A) Dog\n(B) Fox\n(C) Hill\n(D) Essay", "(B) Fox")],
    "tpo": [("why does the fox read\nA. to think\nB. to run\nC. to dig\nD. to sleep", "A")],
    "gsm100": [("Question: Two dogs and sixteen foxes?\nLet's think step by step\n", "18")],
    "topic_retrieval_longchat": [
        (f"What is the {which} topic we discussed? Only give me the topic name.", topic)
        for which, topic in (("first", "Dogs"), ("second", "Foxes"), ("third", "Hills"))
    ],
    "codeU": [("What is the output of `run(2)`? Tell me the answer.", "[1, 2]")],
    "sci_fi": [
        ("1.\tDogs run to Sirius, True or False? Answer this question based on the world "
         "described in the document.", "True [fact: False]"),
        ("2.\tFoxes are animals, True or False? Answer this question based on the world "
         "described in the document.", "True [fact: True]"),
    ],
}  # fmt: skip
_OPEN = [("What does the fox do?", "The fox reads an essay."), ("And the dog?", SUMMARY)]


def write_benchmarks(folder: Path, repeat: int = 12) -> Path:
    """BENCHMARK/TASK.jsonl for all 53 tasks; documents of `repeat` times two sentences."""
    writers = (_longbench_rows, _leval_rows, _infinitebench_rows)
    for benchmark, rows in zip(RAW_BENCHMARKS.values(), writers, strict=True):
        (folder / benchmark.name).mkdir(parents=True, exist_ok=True)
        for task in benchmark.tasks:
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows(task, repeat)]
            path = folder / benchmark.name / f"{task}.jsonl"
            path.write_text("".join(lines), encoding="utf-8")
    return folder


def load_rows(benchmark: str, task: str, **recipe: Any) -> list[dict[str, Any]]:
    """The rows of a raw benchmark's task."""
    return find_benchmark(benchmark).rows(task, "", **recipe)


def _documents(task: str, repeat: int) -> list[str]:
    chinese = task in ("multifieldqa_zh", "dureader", "vcsum", "lsht", "longbook_qa_chn")
    text = CHINESE if chinese or task == "passage_retrieval_zh" else STORY
    # the second one holds what str.splitlines() takes for the end of a line
    breaks = ("", "a\u2028b\u2029c\x85d ")
    return [f"Document {i} of {task}. {odd}" + text * repeat for i, odd in enumerate(breaks)]


def _longbench_rows(task: str, repeat: int) -> list[dict[str, Any]]:
    question, answers = _LONGBENCH.get(task, ("Who reads an essay?", ["the fox", "fox"]))
    return [
        {
            "input": question, "context": text, "answers": answers, "length": len(text),
            "dataset": task, "language": "en", "all_classes": _CLASSES.get(task),
            "_id": f"{i:048x}",
        }
        for i, text in enumerate(_documents(task, repeat))
    ]  # fmt: skip


def _infinitebench_rows(task: str, repeat: int) -> list[dict[str, Any]]:
    question, answer, options = _INFINITEBENCH[task]
    first, second = _documents(task, repeat)
    # two questions about the first book with one about the second between them
    return [
        {"id": i, "context": text, "input": question, "answer": answer, "options": options}
        for i, text in enumerate((first, second, first))
    ]


def _leval_rows(task: str, repeat: int) -> list[dict[str, Any]]:
    pairs = _LEVAL.get(task, _OPEN)
    if task in ("coursera", "quality", "tpo"):
        pairs = [*pairs, (pairs[0][0].replace("Dog", "Dogs"), pairs[0][1])]
    kind = RAW_BENCHMARKS["leval"].task(task).group
    evaluation = {"closed-ended": "exam", "open-ended-qa": "f1"}.get(kind, "rouge")
    first, second = _documents(task, repeat)
    rows = [(first, evaluation), (second, evaluation)]
    if evaluation != "exam":
        rows.append((first, "LLM"))  # the same document for a judge, as the real files have it
    return [
        {
            "input": text, "instructions": [p[0] for p in pairs], "outputs": [p[1] for p in pairs],
            "source": task, "evaluation": how,
        }
        for text, how in rows
    ]  # fmt: skip


def perfect(benchmark: str, task: str, reference: Any) -> str:
    """A prediction that every official rule must score 100."""
    if benchmark == "longbench":
        return str(reference["answers"][0])
    if benchmark == "leval":
        return f"The answer is {reference}" if task == "gsm100" else str(reference)
    if task == "longbook_choice_eng":
        return str(reference[1])
    if task == "code_debug":
        return f"{reference[1]}."
    if task == "math_calc":
        return str(reference)
    return str(reference[0] if isinstance(reference, list) else reference)
