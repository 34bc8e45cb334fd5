"""Tiny checkpoints that the commands can look at, and a text that `ask` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ask_words import TEXT
from tiny_models import tiny_model
from tiny_tokenizers import tiny_tokenizer


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    model: Any = tiny_model(window=8192)  # the demo's scopes fit
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ask") / "model"
    made = tiny_model(window=4096, vocab_size=500, dtype=torch.float32)
    made.generation_config.eos_token_id = None
    made.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text(TEXT)
    return path
