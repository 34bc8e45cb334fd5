"""One batch of prompts through one model: `attach` and the session it gives."""

from reattention_eval.engine.attach import attach
from reattention_eval.engine.session import Session
from reattention_eval.engine.stats import SessionStats

__all__ = ["Session", "SessionStats", "attach"]
