"""`opencompass CONFIG --slurm`: OpenCompass's own classes, asked for by path, are ours.

The flag names NumWorkerPartitioner, which builds every dataset before anything runs and believes
a stale size file, NaivePartitioner, which takes a damaged result for one, and OpenCompass's tasks,
which stop at the first failing dataset and know nothing of tensor parallelism. A registry of
mmengine gives what was registered last under a name, so ours are registered under the names that
the flag writes.
"""

from __future__ import annotations

from opencompass.partitioners import NaivePartitioner, NumWorkerPartitioner
from opencompass.registry import PARTITIONERS, TASKS
from opencompass.tasks import OpenICLEvalTask, OpenICLInferTask

from reattention_eval.harness.partition import ScorePartitioner, WorkerPartitioner
from reattention_eval.harness.tasks import LongContextEvalTask, LongContextInferTask


def answer_for_opencompass() -> None:
    """For the rest of this process, the classes that `--slurm` names are ours."""
    PARTITIONERS.register_module(_name(NumWorkerPartitioner), module=WorkerPartitioner)
    PARTITIONERS.register_module(_name(NaivePartitioner), module=ScorePartitioner)
    TASKS.register_module(_name(OpenICLInferTask), module=LongContextInferTask)
    TASKS.register_module(_name(OpenICLEvalTask), module=LongContextEvalTask)


def _name(cls: type) -> str:
    """`opencompass.tasks.openicl_infer.X` -> what the registry of `opencompass` looks up."""
    return f"{cls.__module__.partition('.')[2]}.{cls.__name__}"
