"""SmolLM2-135M-Instruct, 4 bits (`reattention-eval prepare demo` puts it into the cache).

Trained on windows of 8,192 tokens. Its instruct form answers in its own chat turn.
"""

from reattention_eval.harness import LongContextLM
from reattention_eval.harness.compose import embedded_model

models = [dict(type=LongContextLM, **embedded_model.build()("smollm2-135m"))]
