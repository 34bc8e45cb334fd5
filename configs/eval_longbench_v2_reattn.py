"""LongBench v2 on the paper's chat models and methods.

    opencompass configs/eval_longbench_v2_reattn.py

Methods that keep a model's own positions read no further than its window. Tables give the score of
each difficulty and length class too.
A part of it: REATTENTION_ONLY_MODELS, _ONLY_METHODS, _ONLY_TASKS, _ONLY_LENGTHS,
REATTENTION_SAMPLES, and REATTENTION_RUN_MODEL (a folder or hub id instead of the models).
"""

from mmengine.config import read_base

from reattention_eval.harness.compose import evaluation

with read_base():
    from .datasets.longbench_v2 import plan
    from .methods.paper import methods
    from .models.paper_chat import models
    from .runners.auto import eval, infer
    from .summarizers.long_context import summarizer

run = evaluation.build()(models, methods, [plan])
models, datasets = run["models"], run["datasets"]
model_dataset_combinations = run["model_dataset_combinations"]
del run, plan, methods

work_dir = "outputs/longbench_v2"
