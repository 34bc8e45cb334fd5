"""Needle in a haystack on the embedded model, inside and beyond its trained window of 8,192 tokens.

    opencompass configs/eval_demo.py

Variables that replace what stands here, for larger or smaller runs of the same configuration:
REATTENTION_RUN_MODEL (a folder, hub id or embedded model), REATTENTION_LENGTHS,
REATTENTION_DEPTHS (percent), REATTENTION_REPEATS, REATTENTION_ONLY_METHODS (types out of
methods/demo.py), lists separated by commas, and REATTENTION_HAYSTACK (a text file instead of the
essays).
"""

from mmengine.config import read_base

from reattention_eval.harness.compose import evaluation

with read_base():
    from .methods.demo import methods
    from .models.embedded import models
    from .runners.auto import eval, infer
    from .summarizers.long_context import summarizer

plan = dict(
    benchmark="needle",
    lengths=[4096, 10240],
    depths=[10, 50, 90],
    repeats=1,
)

run = evaluation.build()(models, methods, [plan])
models, datasets = run["models"], run["datasets"]
model_dataset_combinations = run["model_dataset_combinations"]
del run, plan, methods

work_dir = "outputs/demo"
