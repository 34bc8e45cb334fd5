"""The token ids that every form is given."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from reattention_eval.checkpoints import load_tokenizer
from reattention_eval.checkpoints.local import is_embedded
from reattention_eval.efficiency.e2e.models import is_checkpoint
from reattention_eval.errors import ConfigError, DataError


def prompt(tokens: int, vocabulary: int) -> Tensor:
    """[1, tokens], the same for every form and on every machine; a longer one begins alike."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, vocabulary, (1, tokens), generator=generator)


def text_name(file: Path) -> str:
    """As records call it: those of two texts are not mixed."""
    content = hashlib.sha256(file.expanduser().read_bytes()).hexdigest()
    return f"text of {file.name} ({content[:8]})"


def text_ids(name: str, file: Path, tokens: int) -> Tensor:
    """The first `tokens` tokens [1, tokens] of a text, by the model's own tokenizer.

    Raises:
        ConfigError: the model is a shape alone.
        DataError: no such file, or its text is shorter.
    """
    if not is_checkpoint(name):
        raise ConfigError(
            f"a text is read by a checkpoint's tokenizer, and {name} is a shape with random "
            "weights; give the folder of a checkpoint, or leave the text out."
        )
    source = name if is_embedded(name) else Path(name).expanduser()
    try:
        text = file.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read ({error}); give a text in UTF-8.") from error
    ids: Tensor = load_tokenizer(source)(text, return_tensors="pt").input_ids
    if ids.shape[1] < tokens:
        raise DataError(
            f"{file} has {ids.shape[1]:,} tokens and {tokens:,} are to be read; give a longer "
            "text, or smaller lengths."
        )
    return ids[:, :tokens]
