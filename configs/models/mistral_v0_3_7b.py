"""Mistral-v0.3-7B: see `reattention_eval.checkpoints.paper_models`."""

from reattention_eval.harness import LongContextLM
from reattention_eval.harness.compose import paper_model

models = [dict(type=LongContextLM, **paper_model.build()("mistral_v0_3_7b"))]
