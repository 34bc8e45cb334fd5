"""InfLLM as the ReAttention paper ran it, and at the budgets of the other methods.

The paper's settings attend to the tokens that are not a block yet on top of 8,192; a budget counts
them in.
"""

_shared = dict(type="infllm", local_size=4096, representatives=4)
_paper = [
    dict(**_shared, global_size=32, block_size=32, top_k=127),
    dict(**_shared, global_size=128, block_size=128, top_k=31),
]

methods = [*_paper, *[dict(type="infllm", budget_tokens=tokens) for tokens in (8192, 16416)]]
