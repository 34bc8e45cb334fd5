"""The table of all methods at equal budgets, on a model with a window of 32K and a GPU.

    reattention-eval prepare model qwen2.5-coder-1.5b-q4
    reattention-eval prepare needle; reattention-eval prepare ruler; reattention-eval prepare leval
    opencompass configs/eval_methods.py
    reattention-eval report outputs/methods --by-family --into results/methods/NAME

A row is added by the same command with -r once its method stands in methods/equal_budgets.py; rows
are finished one after another. A part: REATTENTION_ONLY_METHODS (snapkv, reattention-8192: with a
budget), _ONLY_TASKS, _ONLY_LENGTHS, REATTENTION_SAMPLES, REATTENTION_MINUTES with -r; another
model: REATTENTION_RUN_MODEL. Eviction methods need transformers 4.57; elsewhere they fail, and the
others go on.
"""

from mmengine.config import read_base

from reattention_eval.harness.compose import evaluation

with read_base():
    from .datasets.methods_table import as_is, beyond, documents, inside, million
    from .methods.equal_budgets import methods
    from .models.qwen2_5_coder_1_5b_q4 import models
    from .runners.auto import eval, infer
    from .summarizers.long_context import summarizer

run = evaluation.build()(models, methods, [*inside, *documents, *beyond, *as_is, *million])
models, datasets = run["models"], run["datasets"]
model_dataset_combinations = run["model_dataset_combinations"]
del run, inside, documents, beyond, as_is, million, methods

work_dir = "outputs/methods"
