"""One process a model and method for inference, and one for evaluation, on this machine.

A process takes all datasets of its model, so the checkpoint is loaded once.
"""

from opencompass.partitioners import NaivePartitioner
from opencompass.runners import LocalRunner

from reattention_eval.harness.compose import inference_slots
from reattention_eval.harness.tasks import LongContextEvalTask, LongContextInferTask

infer = dict(
    partitioner=dict(type=NaivePartitioner, n=1000),
    runner=dict(
        type=LocalRunner, task=dict(type=LongContextInferTask), **inference_slots.build()()
    ),
)
eval = dict(
    partitioner=dict(type=NaivePartitioner, n=1000),
    runner=dict(type=LocalRunner, max_num_workers=2, task=dict(type=LongContextEvalTask)),
)
