"""SmolLM2-135M-Instruct from the cache (`reattention-eval prepare demo` puts it there).

Trained on windows of 8,192 tokens. Its instruct form answers in its own chat turn.
"""

from reattention_eval.harness import LongContextLM
from reattention_eval.harness.compose import embedded_model, gpus_per_task

models = [
    dict(
        type=LongContextLM,
        abbr="SmolLM2-135M-Instruct",
        path=embedded_model.build()(),
        chat_template=True,
        batch_size=1,
        run_cfg=dict(num_gpus=gpus_per_task.build()()),
    )
]
