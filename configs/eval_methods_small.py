"""The table of all methods at a budget of 2,048 tokens, on SmolLM2-135M and two CPU cores.

    reattention-eval prepare demo
    opencompass configs/eval_methods_small.py
    reattention-eval report outputs/methods_small --by-family --into results/methods/smollm2

Small, for what a CPU does in an hour or two: datasets/methods_table_small.py. A part of it, in
pieces, another row: as configs/eval_methods.py.
"""

from mmengine.config import read_base

from reattention_eval.harness.compose import evaluation

with read_base():
    from .datasets.methods_table_small import beyond, inside
    from .methods.equal_budgets import (
        budget_2048,
        question_alone_2048,
        question_unseen_2048,
        whole_cache,
    )
    from .models.embedded import models
    from .runners.auto import eval, infer
    from .summarizers.long_context import summarizer

methods = [*whole_cache, *budget_2048, *question_alone_2048, *question_unseen_2048]
run = evaluation.build()(models, methods, [*inside, *beyond])
models, datasets = run["models"], run["datasets"]
model_dataset_combinations = run["model_dataset_combinations"]
del run, inside, beyond, methods, budget_2048, whole_cache
del question_alone_2048, question_unseen_2048

work_dir = "outputs/methods_small"
