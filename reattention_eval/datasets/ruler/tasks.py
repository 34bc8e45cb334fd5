"""RULER's thirteen tasks: official prompts, begun answers, answer lengths and settings.

Hsieh et al., 2024, "RULER: What's the Real Context Size of Your Long-Context Language Models?",
arXiv 2404.06654; texts as in github.com/NVIDIA/RULER and nvidia-long-context-eval 26.3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RulerTask:
    """What a task asks.

    `template` holds {context} and, where the task has one, {query}; `answer_prefix` follows it, or
    begins the assistant's turn. `kind` says who makes the context, with `settings`.
    """

    name: str
    kind: str
    template: str
    answer_prefix: str
    max_out_len: int
    settings: dict[str, Any] = field(default_factory=dict)

    def question(self, prompt: str) -> str:
        """The end of one of its prompts, behind the context."""
        begins = self.template.partition("{context}")[2].partition("{")[0]
        return prompt[prompt.rindex(begins) :]


def _needles(
    name: str, haystack: str, keys: str, values: str, k: int = 1, v: int = 1, q: int = 1
) -> RulerTask:
    """One question in the singular, as the official generator words it for a single value."""
    settings = {
        "haystack": haystack, "keys": keys, "values": values, "num_k": max(k, q), "num_v": v,
        "num_q": q,
    }  # fmt: skip
    if q * v == 1:
        template = (
            "A special magic {value} is hidden within the following text. Make sure to memorize "
            "it. I will quiz you about the {value} afterwards.\n{context}\nWhat is the special "
            "magic {value} for {query} mentioned in the provided text?"
        )
        prefix = " The special magic {value} for {query} mentioned in the provided text is"
    else:
        template = (
            "Some special magic {value}s are hidden within the following text. Make sure to "
            "memorize it. I will quiz you about the {value}s afterwards.\n{context}\nWhat are all "
            "the special magic {value}s for {query} mentioned in the provided text?"
        )
        prefix = " The special magic {value}s for {query} mentioned in the provided text are"
    return RulerTask(name, "niah", template, prefix, 128, settings)


def _questions(name: str, data: str) -> RulerTask:
    ask = (
        "Answer the question based on the given documents. Only give me the answer and do not "
        "output any other words."
    )
    return RulerTask(
        name,
        "qa",
        f"{ask}\n\nThe following are given documents.\n\n{{context}}\n\n{ask}\n\n"
        "Question: {query}",
        " Answer:",
        32,
        {"data": data},
    )


_TASKS = (
    _needles("niah_single_1", "repeat", "words", "number"),
    _needles("niah_single_2", "essay", "words", "number"),
    _needles("niah_single_3", "essay", "words", "uuid"),
    _needles("niah_multikey_1", "essay", "words", "number", k=4),
    _needles("niah_multikey_2", "needle", "words", "number"),
    _needles("niah_multikey_3", "needle", "uuids", "uuid"),
    _needles("niah_multivalue", "essay", "words", "number", v=4),
    _needles("niah_multiquery", "essay", "words", "number", q=4),
    RulerTask(
        "vt",
        "variables",
        "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
        "{context}\nQuestion: Find all variables that are assigned the value {query} in the text "
        "above.",
        # "assgined" is the official spelling
        " Answer: According to the chain(s) of variable assignment in the text above, {num_v} "
        "variables are assgined the value {query}, they are: ",
        30,
        {"hops": 4},
    ),
    RulerTask(
        "cwe",
        "common_words",
        "Below is a numbered list of words. In these words, some appear more often than others. "
        "Memorize the ones that appear most often.\n{context}\nQuestion: What are the 10 most "
        "common words in the above list?",
        " Answer: The top 10 words that appear most often in the list are:",
        120,
        {"common": 30, "uncommon": 3, "asked": 10},
    ),
    RulerTask(
        "fwe",
        "frequent_words",
        "Read the following coded text and track the frequency of each coded word. Find the three "
        "most frequently appeared coded words. {context}\nQuestion: Do not provide any "
        "explanation. Please ignore the dots '....'. What are the three most frequently appeared "
        "words in the above coded text?",
        " Answer: According to the coded text above, the three most frequently appeared words are:",
        50,
        {"alpha": 2.0, "letters": 6, "asked": 3},
    ),
    _questions("qa_1", "squad"),
    _questions("qa_2", "hotpotqa"),
)

RULER_TASKS: dict[str, RulerTask] = {task.name: task for task in _TASKS}
