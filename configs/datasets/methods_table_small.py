"""The table of all methods on two CPU cores, for a model with a window of 8K.

Few samples, and the table says how many: needles at five depths of one haystack of 4,096 tokens
and, for methods that read on beyond the window, of 10,240. All five stand in one text, so that
each distracts from the others.
"""

_needles = dict(
    benchmark="needle", style="many_depths", depths=[10, 30, 50, 70, 90], repeats=1,
    haystack="essays", max_out_len=10,
)  # fmt: skip
_budget = ["reattention", "reattention_plus", "streaming_llm", "lm_infinite"]
_reading_on = [
    *[dict(type=name) for name in ["full", "dynamic_ntk", "yarn", "linear", "self_extend", "dca"]],
    *[dict(type=name, budget_tokens=2048) for name in _budget],
    dict(type="infllm", budget_tokens=2048, local_size=1024, chunk_size=256),
    dict(type="reattention", budget_tokens=2048, last_tokens="document", last_alone=True),
]

inside = [dict(_needles, lengths=[4096])]
beyond = [dict(_needles, lengths=[10240], methods=_reading_on)]
