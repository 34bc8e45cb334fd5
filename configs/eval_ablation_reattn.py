"""ReAttention's settings one by one, on a model with a window of 32K.

    reattention-eval prepare model qwen2.5-coder-1.5b-q4
    reattention-eval prepare needle; reattention-eval prepare ruler
    REATTENTION_ONLY_ABLATIONS=span opencompass configs/eval_ablation_reattn.py
    reattention-eval curve outputs/ablation-span --out results/ablation/span

Groups: chunk, span, top_k, local, score, selection, budget, last_tokens, and of rules that are not
the paper's per_kv_head, votes, span_grid, vote_memory, layer_slope, together; unset, all of them.
`curve` is the plot; the table is
reattention-eval report outputs/ablation-span --into results/ablation/span.

A part of one: REATTENTION_ONLY_TASKS (needle, vt, ...), _ONLY_LENGTHS, REATTENTION_SAMPLES,
REATTENTION_MINUTES with -r. Another model: REATTENTION_RUN_MODEL; on one with a smaller window
`budget` and `layer_slope` have scopes that do not fit it.
"""

from mmengine.config import read_base

from reattention_eval.harness.compose import chosen_ablations, evaluation

with read_base():
    from .datasets.ablation import plans
    from .methods.ablation import ablations
    from .models.qwen2_5_coder_1_5b_q4 import models
    from .runners.auto import eval, infer
    from .summarizers.long_context import summarizer

chosen = chosen_ablations.build()(ablations)
work_dir = chosen["work_dir"]
run = evaluation.build()(models, chosen["methods"], plans)
models, datasets = run["models"], run["datasets"]
model_dataset_combinations = run["model_dataset_combinations"]
del run, chosen, plans, ablations
