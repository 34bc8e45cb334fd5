"""Long-context methods, one small file each, by name.

To list them costs no import of torch: a method's file imports what computes where it computes.
"""

from reattention_eval.methods.base import Method, NativeMethod, ViewMethod
from reattention_eval.methods.dca import DualChunkAttention
from reattention_eval.methods.eviction import (
    H2O,
    TOVA,
    ExpectedAttention,
    KeyDiff,
    KVPress,
    PyramidKV,
    SnapKV,
)
from reattention_eval.methods.full import FullAttention
from reattention_eval.methods.infllm import InfLLM
from reattention_eval.methods.lm_infinite import LMInfinite
from reattention_eval.methods.memory import (
    KeepsIndex,
    KeepsScores,
    forward_tokens,
    gathers,
    index_bytes,
    score_bytes,
)
from reattention_eval.methods.native_full import NativeFull
from reattention_eval.methods.oracle import OracleTopK, OracleTopP
from reattention_eval.methods.prompt_reader import PromptReader
from reattention_eval.methods.quest import Quest
from reattention_eval.methods.reattention import ReAttention
from reattention_eval.methods.reattention_plus import ReAttentionPlus
from reattention_eval.methods.registry import (
    build_method,
    list_methods,
    method_class,
    method_settings,
    sized,
)
from reattention_eval.methods.repeats import Repeats, fixed_view, repeats_until
from reattention_eval.methods.rope_scaling import DynamicNTK, LinearRope, YarnRope
from reattention_eval.methods.self_extend import SelfExtend
from reattention_eval.methods.streaming_llm import StreamingLLM
from reattention_eval.methods.text import (
    default_settings,
    method_of_text,
    settings_of_text,
    text_of_method,
    usual_settings,
)

__all__ = [
    "H2O",
    "TOVA",
    "DualChunkAttention",
    "DynamicNTK",
    "ExpectedAttention",
    "FullAttention",
    "InfLLM",
    "KVPress",
    "KeepsIndex",
    "KeepsScores",
    "KeyDiff",
    "LMInfinite",
    "LinearRope",
    "Method",
    "NativeFull",
    "NativeMethod",
    "OracleTopK",
    "OracleTopP",
    "PromptReader",
    "PyramidKV",
    "Quest",
    "ReAttention",
    "ReAttentionPlus",
    "Repeats",
    "SelfExtend",
    "SnapKV",
    "StreamingLLM",
    "ViewMethod",
    "YarnRope",
    "build_method",
    "default_settings",
    "fixed_view",
    "forward_tokens",
    "gathers",
    "index_bytes",
    "list_methods",
    "method_class",
    "method_of_text",
    "method_settings",
    "repeats_until",
    "score_bytes",
    "settings_of_text",
    "sized",
    "text_of_method",
    "usual_settings",
]
