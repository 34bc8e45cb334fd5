"""Every method at a budget of 8,192 and of 16,416 tokens; those without a budget once.

What `budget_tokens` counts for each of them: `reattention-eval methods`. The paper's own settings
(`paper.py`) are for ReAttention and StreamingLLM one of the two budgets, as the model's window has
it; a model trained to 8,192 tokens takes `budget_8192` alone. The oracles are upper bounds, no
methods. dynamic_ntk takes checkpoints whose RoPE is not scaled yet.
"""

_names = ["reattention", "streaming_llm", "lm_infinite", "quest", "oracle_topk", "oracle_topp"]

whole_cache = [dict(type="full"), dict(type="dynamic_ntk"), dict(type="self_extend")]
budget_8192 = [dict(type=name, budget_tokens=8192) for name in _names]
budget_16416 = [dict(type=name, budget_tokens=16416) for name in _names]

methods = [*whole_cache, *budget_8192, *budget_16416]
