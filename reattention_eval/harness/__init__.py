"""The one room that knows OpenCompass: model, inferencer, datasets, evaluators, summarizer.

Names are loaded when asked for, so the parts that need no OpenCompass (`prompt_runner`,
`sample_run`, `needle_rows`, `compose`, `direct`) work without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from reattention_eval.harness.plain_errors import say_plainly

if TYPE_CHECKING:
    from reattention_eval.harness.benchmark import BenchmarkDataset, BenchmarkEvaluator
    from reattention_eval.harness.inferencer import LongContextGenInferencer
    from reattention_eval.harness.model import LongContextLM, ReAttentionCausalLM
    from reattention_eval.harness.needle import NeedleDataset, NeedleEvaluator
    from reattention_eval.harness.prompt_runner import PromptRunner
    from reattention_eval.harness.ruler import RulerDataset, RulerEvaluator
    from reattention_eval.harness.samples import Output, Sample
    from reattention_eval.harness.summarizer import LongContextSummarizer

_HOMES = {
    "BenchmarkDataset": "benchmark",
    "BenchmarkEvaluator": "benchmark",
    "LongContextGenInferencer": "inferencer",
    "LongContextLM": "model",
    "LongContextSummarizer": "summarizer",
    "NeedleDataset": "needle",
    "NeedleEvaluator": "needle",
    "Output": "samples",
    "PromptRunner": "prompt_runner",
    "ReAttentionCausalLM": "model",
    "RulerDataset": "ruler",
    "RulerEvaluator": "ruler",
    "Sample": "samples",
}

__all__ = [
    "BenchmarkDataset",
    "BenchmarkEvaluator",
    "LongContextGenInferencer",
    "LongContextLM",
    "LongContextSummarizer",
    "NeedleDataset",
    "NeedleEvaluator",
    "Output",
    "PromptRunner",
    "ReAttentionCausalLM",
    "RulerDataset",
    "RulerEvaluator",
    "Sample",
]

say_plainly()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
