"""The demo at full size, for a GPU: 4K to 64K, 11 depths, 5 repeats, a sweep of scopes.

    opencompass configs/eval_needle_sweep.py

REATTENTION_RUN_MODEL, REATTENTION_LENGTHS, _DEPTHS, _REPEATS and REATTENTION_ONLY_METHODS replace
what stands here, as in eval_demo.py.
"""

from mmengine.config import read_base

from reattention_eval.harness.compose import evaluation

with read_base():
    from .methods.scope_sweep import methods
    from .models.embedded import models
    from .runners.auto import eval, infer
    from .summarizers.long_context import summarizer

plan = dict(
    benchmark="needle",
    lengths=[4096, 8192, 16384, 32768, 65536],
    depths=[0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100],
    repeats=5,
)

run = evaluation.build()(models, methods, [plan])
models, datasets = run["models"], run["datasets"]
model_dataset_combinations = run["model_dataset_combinations"]
del run, plan, methods

work_dir = "outputs/needle_sweep"
