"""Every method at a budget of 8,192 and of 16,416 tokens; those without a budget once.

What `budget_tokens` counts for each of them: `reattention-eval methods`. The paper's own settings
of ReAttention and StreamingLLM (`paper.py`) are one of the two budgets, as the model's window has
it; InfLLM's attend to a little more than 8,192 (`infllm_paper`). A model trained to 8,192 tokens
takes `budget_8192` or, where prompts are to be longer than budgets, `budget_2048`. The oracles are
upper bounds, no methods. dynamic_ntk, linear and yarn take checkpoints whose RoPE is not scaled
yet; eviction runs on transformers 4.57 alone (docs/methods.md).
"""

whole_cache = [
    dict(type="full"),
    dict(type="dynamic_ntk"),
    dict(type="yarn"),
    dict(type="linear"),
    dict(type="self_extend"),
    dict(type="dca"),
]
_views = [
    "reattention",
    "reattention_plus",
    "streaming_llm",
    "infllm",
    "lm_infinite",
    "quest",
    "oracle_topk",
    "oracle_topp",
]
_evictions = ["snapkv", "pyramidkv", "h2o", "tova", "expected_attention", "keydiff"]

budget_8192 = [dict(type=name, budget_tokens=8192) for name in [*_views, *_evictions]]
budget_16416 = [dict(type=name, budget_tokens=16416) for name in [*_views, *_evictions]]
# half of so few tokens is local, as in the paper's scopes; smaller chunks leave room for blocks
budget_2048 = [
    dict(type="infllm", budget_tokens=2048, local_size=1024, chunk_size=256),
    *[dict(type=name, budget_tokens=2048) for name in [*_views, *_evictions] if name != "infllm"],
]
# the question's tokens one by one, so that no text before it outvotes them (docs/methods.md)
_alone = dict(type="reattention", last_tokens="document", last_alone=True)
question_alone_2048 = [dict(_alone, budget_tokens=2048)]
question_alone_8192 = [dict(_alone, budget_tokens=8192)]
question_alone_16416 = [dict(_alone, budget_tokens=16416)]
# the document compressed before the question is read, as kvpress's own evaluation does
question_unseen_8192 = [
    dict(type=name, budget_tokens=8192, query_aware=False) for name in ["snapkv", "keydiff"]
]
question_unseen_2048 = [
    dict(type=name, budget_tokens=2048, query_aware=False) for name in ["snapkv", "keydiff"]
]
infllm_paper = [
    dict(type="infllm", global_size=32, block_size=32, top_k=127),
    dict(type="infllm", global_size=128, block_size=128, top_k=31),
]

methods = [
    *whole_cache,
    *budget_8192,
    *question_alone_8192,
    *question_unseen_8192,
    *budget_16416,
    *question_alone_16416,
]
