"""OpenAI's MRCR on the paper's chat models and methods.

    opencompass configs/eval_mrcr_reattn.py

A conversation stands in the model's own turns and is never cut; a length is the upper end of a bin.
Needs tiktoken's o200k_base (docs/benchmarks.md). REATTENTION_LENGTHS=262144,524288,1048576 runs
the bins beyond.
A part of it: REATTENTION_ONLY_MODELS, _ONLY_METHODS, _ONLY_TASKS, _ONLY_LENGTHS,
REATTENTION_SAMPLES, and REATTENTION_RUN_MODEL (a folder or hub id instead of the models).
"""

from mmengine.config import read_base

from reattention_eval.harness.compose import evaluation

with read_base():
    from .datasets.mrcr import plan
    from .methods.paper import methods
    from .models.paper_chat import models
    from .runners.auto import eval, infer
    from .summarizers.long_context import summarizer

run = evaluation.build()(models, methods, [plan])
models, datasets = run["models"], run["datasets"]
model_dataset_combinations = run["model_dataset_combinations"]
del run, plan, methods

work_dir = "outputs/mrcr"
