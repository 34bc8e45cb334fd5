"""OpenCompass's two tasks, made to go on after a failing dataset and to end with a true status."""

from reattention_eval.harness.tasks.evaluate import LongContextEvalTask
from reattention_eval.harness.tasks.infer import LongContextInferTask

__all__ = ["LongContextEvalTask", "LongContextInferTask"]
