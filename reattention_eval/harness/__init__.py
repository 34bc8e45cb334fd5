"""The one room that knows OpenCompass: model, inferencer, datasets, evaluators, summarizer."""

from reattention_eval.harness.inferencer import LongContextGenInferencer
from reattention_eval.harness.model import LongContextLM, ReAttentionCausalLM
from reattention_eval.harness.needle import NeedleDataset, NeedleEvaluator
from reattention_eval.harness.samples import Output, Sample
from reattention_eval.harness.summarizer import LongContextSummarizer

__all__ = [
    "LongContextGenInferencer",
    "LongContextLM",
    "LongContextSummarizer",
    "NeedleDataset",
    "NeedleEvaluator",
    "Output",
    "ReAttentionCausalLM",
    "Sample",
]
