"""Models on disk: loading a folder, and fetching what this package brings along.

Nothing is fetched on import.
"""

from reattention_eval.checkpoints.access import check_access
from reattention_eval.checkpoints.embedded import (
    embedded_model_folder,
    ensure_embedded_model,
    prepared_model_folder,
)
from reattention_eval.checkpoints.embedded_models import EMBEDDED_MODELS
from reattention_eval.checkpoints.load import load_model, load_tokenizer
from reattention_eval.checkpoints.local import model_path

__all__ = [
    "EMBEDDED_MODELS",
    "check_access",
    "embedded_model_folder",
    "ensure_embedded_model",
    "load_model",
    "load_tokenizer",
    "model_path",
    "prepared_model_folder",
]
