"""ReAttention (arXiv 2407.15176): contexts far beyond a trained window, without training."""

from reattention_eval.engine import Session, attach
from reattention_eval.methods import FullAttention, ReAttention, StreamingLLM

__version__ = "0.1.0"

__all__ = ["FullAttention", "ReAttention", "Session", "StreamingLLM", "attach"]
