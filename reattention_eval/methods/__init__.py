"""Long-context methods, one small file each, by name.

To list them costs no import of torch: a method's file imports what computes where it computes.
"""

from reattention_eval.methods.base import Method, NativeMethod, ViewMethod
from reattention_eval.methods.dca import DualChunkAttention
from reattention_eval.methods.full import FullAttention
from reattention_eval.methods.infllm import InfLLM
from reattention_eval.methods.lm_infinite import LMInfinite
from reattention_eval.methods.memory import KeepsIndex, forward_tokens, gathers, index_bytes
from reattention_eval.methods.native_full import NativeFull
from reattention_eval.methods.reattention import ReAttention
from reattention_eval.methods.registry import (
    build_method,
    list_methods,
    method_class,
    method_settings,
)
from reattention_eval.methods.repeats import Repeats, fixed_view, repeats_until
from reattention_eval.methods.rope_scaling import DynamicNTK, LinearRope, YarnRope
from reattention_eval.methods.self_extend import SelfExtend
from reattention_eval.methods.streaming_llm import StreamingLLM
from reattention_eval.methods.text import method_of_text, text_of_method

__all__ = [
    "DualChunkAttention",
    "DynamicNTK",
    "FullAttention",
    "InfLLM",
    "KeepsIndex",
    "LMInfinite",
    "LinearRope",
    "Method",
    "NativeFull",
    "NativeMethod",
    "ReAttention",
    "Repeats",
    "SelfExtend",
    "StreamingLLM",
    "ViewMethod",
    "YarnRope",
    "build_method",
    "fixed_view",
    "forward_tokens",
    "gathers",
    "index_bytes",
    "list_methods",
    "method_class",
    "method_of_text",
    "method_settings",
    "repeats_until",
    "text_of_method",
]
