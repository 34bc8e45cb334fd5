"""ReAttention (arXiv 2407.15176): contexts far beyond a trained window, without training.

Names are loaded when asked for: the command line starts without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reattention_eval.checkpoints.load import load, load_tokenizer
    from reattention_eval.engine import Session, attach
    from reattention_eval.methods import FullAttention, ReAttention, ReAttentionPlus, StreamingLLM

__version__ = "0.1.0"

_HOMES = {
    "FullAttention": "methods",
    "ReAttention": "methods",
    "ReAttentionPlus": "methods",
    "Session": "engine",
    "StreamingLLM": "methods",
    "attach": "engine",
    "load": "checkpoints.load",
    "load_tokenizer": "checkpoints.load",
}

__all__ = [
    "FullAttention",
    "ReAttention",
    "ReAttentionPlus",
    "Session",
    "StreamingLLM",
    "attach",
    "load",
    "load_tokenizer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
