"""The shapes that gpu_scale_worker.py builds with random weights."""

from __future__ import annotations

from typing import Any

from transformers import LlamaConfig, Qwen2Config

LLAMA31 = dict(
    vocab_size=128256, max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=500000.0,
    rope_scaling={
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
)  # fmt: skip
QWEN2 = dict(vocab_size=152064, max_position_embeddings=32768, rms_norm_eps=1e-6, rope_theta=1e6)


def sizes(hidden: int, mlp: int, layers: int, heads: int, kv_heads: int) -> dict[str, int]:
    return dict(
        hidden_size=hidden, intermediate_size=mlp, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=128,
    )  # fmt: skip


SHAPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama3.1-8b": (LlamaConfig, LLAMA31 | sizes(4096, 14336, 32, 32, 8)),
    "llama3.1-70b": (LlamaConfig, LLAMA31 | sizes(8192, 28672, 80, 64, 8)),
    "qwen2-7b": (Qwen2Config, QWEN2 | sizes(3584, 18944, 28, 28, 4)),
    "qwen2-72b": (Qwen2Config, QWEN2 | sizes(8192, 29568, 80, 64, 8)),
    "check": (LlamaConfig, LLAMA31 | sizes(2048, 5632, 8, 16, 8) | dict(vocab_size=32000)),
}
TINY = dict(
    hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=16,
    num_key_value_heads=8, head_dim=16, vocab_size=131,
)  # fmt: skip
