"""Models on disk: loading a folder, and fetching what this package brings along.

Nothing is fetched on import.
"""

from reattention_eval.checkpoints.embedded import ensure_embedded_model

__all__ = ["ensure_embedded_model"]
