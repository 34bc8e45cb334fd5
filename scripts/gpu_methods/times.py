"""Plans of run.sh with a GPU to itself, one process: seconds and memory beside the scores.

A question in the middle of each of three texts, so that every prompt is read whole.
"""

from configs.datasets import methods_table as _table
from configs.methods.equal_budgets import question_alone_16416 as _question_alone

_needles = dict(_table.inside[0], depths=[50], repeats=3)
_16K = [
    *[dict(type=name, budget_tokens=16416) for name in ("reattention", "reattention_plus")],
    *_question_alone,
    *[dict(type=name, budget_tokens=16416) for name in ("streaming_llm", "infllm")],
]
_8K = [
    dict(type=name, budget_tokens=8192)
    for name in ("reattention", "reattention_plus", "quest", "lm_infinite")
]
_all_keys = [dict(type=name) for name in ("yarn", "dynamic_ntk", "dca", "self_extend")]

plans = [
    dict(_needles, lengths=[2**15], methods=[dict(type="full"), *_16K, *_8K, *_all_keys]),
    dict(_needles, lengths=[2**17], methods=[dict(type="full"), *_16K]),
]
