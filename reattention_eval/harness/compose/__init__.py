"""Short configurations: models x methods x plans, names that carry what changes a result.

OpenCompass reads configurations in a restricted language in which imported functions are
stand-ins; `name.build()` gives the real one: `run = evaluation.build()(models, methods, [plan])`.
"""

from reattention_eval.harness.compose.ablations import chosen_ablations
from reattention_eval.harness.compose.embedded_models import embedded_model
from reattention_eval.harness.compose.evaluation import evaluation
from reattention_eval.harness.compose.jobs import Job, plan_jobs
from reattention_eval.harness.compose.machine import gpus_per_task
from reattention_eval.harness.compose.model_method_pairs import model_method_pairs
from reattention_eval.harness.compose.paper_models import paper_model
from reattention_eval.harness.compose.real_small import real_small_plans

__all__ = [
    "Job",
    "chosen_ablations",
    "embedded_model",
    "evaluation",
    "gpus_per_task",
    "model_method_pairs",
    "paper_model",
    "plan_jobs",
    "real_small_plans",
]
