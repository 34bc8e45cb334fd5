"""A tiny checkpoint folder, with a real tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase


def save_checkpoint(folder: Path, tokenizer: PreTrainedTokenizerBase, window: int = 8192) -> Path:
    """A random two-layer Llama of float32 with `tokenizer` beside it."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=window,
        initializer_range=0.3,  # far from uniform: greedy tokens depend on the whole prompt
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
