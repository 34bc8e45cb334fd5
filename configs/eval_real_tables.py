"""RULER, L-Eval, LongBench and perplexity by position of a model with a window of 32K.

    reattention-eval prepare model qwen2.5-coder-1.5b-q4
    reattention-eval prepare needle; reattention-eval prepare ruler; reattention-eval prepare leval
    opencompass configs/eval_real_tables.py

L-Eval without codeU and narrative_qa, LongBench's multi_news and multifieldqa_zh. Another method
adds its rows: the same command with -r once it stands in methods/paper.py. A part, in pieces:
REATTENTION_ONLY_METHODS, _ONLY_TASKS (ruler, leval, niah, vt, ...), _ONLY_LENGTHS,
REATTENTION_SAMPLES, REATTENTION_MINUTES with -r; another model: REATTENTION_RUN_MODEL.
"""

from mmengine.config import read_base

from reattention_eval.harness.compose import evaluation

with read_base():
    from .datasets.perplexity import by_position
    from .datasets.real_tables import leval, longbench, ruler
    from .methods.paper import methods
    from .models.qwen2_5_coder_1_5b_q4 import models
    from .runners.auto import eval, infer
    from .summarizers.long_context import summarizer

run = evaluation.build()(models, methods, [*ruler, *leval, *longbench, *by_position])
models, datasets = run["models"], run["datasets"]
model_dataset_combinations = run["model_dataset_combinations"]
del run, ruler, leval, longbench, by_position, methods

work_dir = "outputs/real_tables"
