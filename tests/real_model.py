"""The embedded model for tests that need the real one; they are skipped only without a network."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from reattention_eval.checkpoints import ensure_embedded_model, load_model
from reattention_eval.errors import DownloadError


@lru_cache
def real_folder() -> Path:
    try:
        return ensure_embedded_model(progress=False)
    except DownloadError as error:
        pytest.skip(f"the embedded model cannot be fetched: {error}")


@lru_cache
def real_tokenizer() -> PreTrainedTokenizerBase:
    return load_model(real_folder(), tokenizer_only=True)[1]
