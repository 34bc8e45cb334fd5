"""A tiny checkpoint that the commands can look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_model
from tiny_tokenizers import tiny_tokenizer


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    model: Any = tiny_model(window=8192)  # the demo's scopes fit
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
