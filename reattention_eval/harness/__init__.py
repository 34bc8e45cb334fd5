"""The one room that knows OpenCompass: model, inferencer, dataset, evaluator, summarizer.

Names are loaded when asked for, so the parts that need no OpenCompass (`prompt_runner`,
`sample_run`, `compose`, `standalone`) work without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from reattention_eval.harness.plain_errors import say_plainly

if TYPE_CHECKING:
    from reattention_eval.harness.benchmark import BenchmarkDataset, BenchmarkEvaluator
    from reattention_eval.harness.inferencer import LongContextGenInferencer
    from reattention_eval.harness.model import LongContextLM, ReAttentionCausalLM
    from reattention_eval.harness.prompt_runner import PromptRunner
    from reattention_eval.harness.samples import Output, Sample
    from reattention_eval.harness.summarizer import LongContextSummarizer

_HOMES = {
    "BenchmarkDataset": "benchmark",
    "BenchmarkEvaluator": "benchmark",
    "LongContextGenInferencer": "inferencer",
    "LongContextLM": "model",
    "LongContextSummarizer": "summarizer",
    "Output": "samples",
    "PromptRunner": "prompt_runner",
    "ReAttentionCausalLM": "model",
    "Sample": "samples",
}
# in configurations that earlier versions wrote down for their jobs
_FORMER = ("NeedleDataset", "NeedleEvaluator", "RulerDataset", "RulerEvaluator")

__all__ = [
    "BenchmarkDataset",
    "BenchmarkEvaluator",
    "LongContextGenInferencer",
    "LongContextLM",
    "LongContextSummarizer",
    "Output",
    "PromptRunner",
    "ReAttentionCausalLM",
    "Sample",
]

say_plainly()


def __getattr__(name: str) -> Any:
    if name in _FORMER:
        raise AttributeError(
            f"{name} is BenchmarkDataset or BenchmarkEvaluator now: this configuration was written "
            "down by an earlier version; start its run again from configs/eval_*.py with -r, "
            "which goes on with the samples that it holds."
        )
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
