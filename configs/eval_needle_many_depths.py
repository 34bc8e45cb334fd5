"""A model with a window of 32K, asked for needles at 11 depths of 32K to 4M tokens.

    reattention-eval prepare model qwen2.5-coder-1.5b-q4
    reattention-eval prepare needle; reattention-eval prepare ruler    # the haystack
    opencompass configs/eval_needle_many_depths.py

In pieces: REATTENTION_MINUTES=25, then the same command with -r until its status is 0. A part of
it: REATTENTION_ONLY_METHODS, _ONLY_LENGTHS (32K, 4M, ...), REATTENTION_SAMPLES; another model:
REATTENTION_RUN_MODEL; other depths and numbers of haystacks: REATTENTION_DEPTHS, _REPEATS.
"""

from mmengine.config import read_base

from reattention_eval.harness.compose import evaluation

with read_base():
    from .datasets.needle_many_depths import many_depths
    from .methods.paper import methods
    from .models.qwen2_5_coder_1_5b_q4 import models
    from .runners.auto import eval, infer
    from .summarizers.long_context import summarizer

run = evaluation.build()(models, methods, many_depths)
models, datasets = run["models"], run["datasets"]
model_dataset_combinations = run["model_dataset_combinations"]
del run, many_depths, methods

work_dir = "outputs/needle_many_depths"
