"""Tiny random models of each family, in any dtype, for the method tests."""

from __future__ import annotations

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {}),
}
VOCABULARY = 97


def longrope(original: int) -> dict[str, object]:
    """RoPE scaling of heads of 16 that changes behind `original` tokens."""
    return dict(
        rope_type="longrope", short_factor=[1.0] * 8, long_factor=[2.0] * 8, factor=4.0,
        original_max_position_embeddings=original,
    )  # fmt: skip


def tiny_model(
    family: str = "llama",
    *,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    layers: int = 2,
    window: int = 512,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    **settings: object,
) -> torch.nn.Module:
    config_class, model_class, own = FAMILIES[family]
    config = config_class(
        hidden_size=heads * head_dim,
        head_dim=head_dim,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=window,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        attn_implementation="eager",
        # 0.3: large enough that attention is far from uniform
        **{"initializer_range": 0.3, "vocab_size": VOCABULARY, **own, **settings},
    )
    torch.manual_seed(seed)
    return model_class(config).to(dtype).eval()


def random_prompt(tokens: int, rows: int = 1, seed: int = 1, of: int = VOCABULARY) -> torch.Tensor:
    """[rows, tokens] of a vocabulary `of` so many, no token twice in a row where that allows: a
    repeated one has equal keys in the first layer but for what a processor's products round, which
    is no tie to test."""
    generator = torch.Generator().manual_seed(seed)
    if tokens > of - 3:
        return torch.randint(3, of, (rows, tokens), generator=generator)
    drawn = [torch.randperm(of - 3, generator=generator)[:tokens] for _ in range(rows)]
    return 3 + torch.stack(drawn)
