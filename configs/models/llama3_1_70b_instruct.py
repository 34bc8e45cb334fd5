"""LLaMA3.1-70B-Instruct: see `reattention_eval.checkpoints.paper_models`."""

from reattention_eval.harness import LongContextLM
from reattention_eval.harness.compose import paper_model

models = [dict(type=LongContextLM, **paper_model.build()("llama3_1_70b_instruct"))]
