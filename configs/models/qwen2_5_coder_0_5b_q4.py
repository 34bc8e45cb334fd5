"""Qwen2.5-Coder-0.5B-Instruct, 4 bits (`reattention-eval prepare model qwen2.5-coder-0.5b-q4`).

Trained on windows of 32,768 tokens; scopes are the paper's for that window.
"""

from reattention_eval.harness import LongContextLM
from reattention_eval.harness.compose import embedded_model

models = [dict(type=LongContextLM, **embedded_model.build()("qwen2.5-coder-0.5b-q4"))]
