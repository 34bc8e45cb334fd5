"""OpenCompass's two tasks, made to go on after a failing dataset and to end with a true status.

OpenCompass starts the files as scripts, which puts this folder first on the import path: no file
here may bear the name of a package that something imports.
"""

from reattention_eval.harness.tasks.eval_task import LongContextEvalTask
from reattention_eval.harness.tasks.infer_task import LongContextInferTask

__all__ = ["LongContextEvalTask", "LongContextInferTask"]
