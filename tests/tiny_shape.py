"""A model's sizes, and a method on it, whose bytes and work a person can add up."""

from __future__ import annotations

from reattention_eval import ReAttention
from reattention_eval.efficiency.shape import ModelShape

TINY = ModelShape(
    layers=3, hidden=32, intermediate=48, heads=4, kv_heads=2, head_dim=8, vocabulary=100,
    tied=False, layer_parameters=1000, window=None,
)  # fmt: skip
SMALL = ReAttention(global_size=2, local_size=8, span_size=2, top_k=2, max_spans=3, chunk_size=5)
