"""What the bars time: one layer's selection and step, as `attach` runs them on a GPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from reattention_kernels.bench.data import RealLayer, make_keys, make_queries, rope_tables
from reattention_kernels.topk_keys.triton import topk_keys_triton
from reattention_kernels.view import SelectedView, attend_view, attend_whole
from reattention_kernels.votes.triton import select_positions_triton

HEADS, KV_HEADS, HEAD_DIM, TOP_K = 32, 8, 128, 4
GLOBAL, LOCAL, SPANS, SPAN = 32, 4096, 127, 32


@dataclass
class Layer:
    """One layer's cache of n tokens, the chunk of t queries at its end included.

    query [1, H, t, D], key and value [1, Hkv, n, D].
    """

    query: Tensor
    key: Tensor
    value: Tensor

    def __post_init__(self) -> None:
        self.n, self.t = self.key.shape[2], self.query.shape[2]
        self.new_key = self.key[:, :, self.n - self.t :].clone()
        self.new_value = self.value[:, :, self.n - self.t :].clone()
        self.middle = self.key[:, :, GLOBAL : self.n - LOCAL]
        self.cos, self.sin = rope_tables(GLOBAL + SPANS * SPAN + LOCAL, self.key.shape[3])

    def select(self) -> tuple[Tensor, Tensor]:
        """top-k, rescoring, votes, spans."""
        winners = topk_keys_triton(self.query, self.middle, TOP_K)
        return select_positions_triton(winners, self.middle.shape[2], SPANS, SPAN)

    def step(self) -> Tensor:
        """Append, selection, gather, RoPE, attention."""
        first = self.n - self.t
        self.key[:, :, first:].copy_(self.new_key)
        self.value[:, :, first:].copy_(self.new_value)
        positions, count = self.select()
        view = SelectedView(positions, count, self.cos, self.sin, GLOBAL, LOCAL, True)
        return attend_view(self.query, self.key, self.value, view, self.key.shape[3] ** -0.5)

    def full_attention(self, backend: SDPBackend = SDPBackend.CUDNN_ATTENTION) -> Tensor:
        """The same queries over all keys, by the fastest attention PyTorch ships."""
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(self.query, self.key, self.value, enable_gqa=True)

    def decode_whole(self) -> Tensor:
        """The same by the kernel that decode steps of full attention run."""
        return attend_whole(self.query, self.key, self.value, self.key.shape[3] ** -0.5)


def made_layer(kind: str, n: int, t: int) -> Layer:
    """Synthetic queries, keys and values, 32 heads over 8 KV heads."""
    query = make_queries(kind, HEADS, t, HEAD_DIM, seed=1)
    key = make_keys(kind, KV_HEADS, n, HEAD_DIM, seed=2)
    value = make_keys(kind, KV_HEADS, n, HEAD_DIM, seed=3)
    return Layer(query, key, value)


def real_layer(keys: RealLayer) -> Layer:
    """A real model's queries and keys; values are random."""
    query, key = (x[None].cuda() for x in keys)
    value = make_keys("random", key.shape[1], key.shape[2], key.shape[3], seed=3, dtype=key.dtype)
    return Layer(query, key, value)


def captured(function: object) -> torch.cuda.CUDAGraph:
    """The function's launches as a CUDA graph."""
    assert callable(function)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph
