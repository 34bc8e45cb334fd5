"""Long-context methods, one small file each, by name."""

from reattention_eval.methods.base import Method
from reattention_eval.methods.full import FullAttention
from reattention_eval.methods.reattention import ReAttention
from reattention_eval.methods.registry import build_method, list_methods, method_class
from reattention_eval.methods.streaming_llm import StreamingLLM

__all__ = [
    "FullAttention",
    "Method",
    "ReAttention",
    "StreamingLLM",
    "build_method",
    "list_methods",
    "method_class",
]
