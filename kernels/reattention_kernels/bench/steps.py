"""What the bars time: one layer's selection and step, as `attach` runs them on a GPU."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from reattention_kernels.bench.data import RealLayer, make_keys, make_queries, rope_tables
from reattention_kernels.topk_keys.int8_index import Int8Index
from reattention_kernels.topk_keys.int8_select import topk_keys_int8
from reattention_kernels.topk_keys.triton import topk_keys_triton
from reattention_kernels.view import SelectedView, attend_view, attend_whole
from reattention_kernels.votes.triton import select_positions_triton

HEADS, KV_HEADS, HEAD_DIM, TOP_K = 32, 8, 128, 4
GLOBAL, LOCAL, SPANS, SPAN = 32, 4096, 127, 32


@dataclass
class Layer:
    """One layer's cache of n tokens, the chunk of t queries at its end included.

    query [1, H, t, D], key and value [1, Hkv, n, D].

    earlier: the queries of the chunk before, like `query`; with them there is the int8 index of the
    keys, and before every call it remembers the winners of that chunk: a chunk that is asked again
    and again would otherwise know its own.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    earlier: Tensor | None = None
    indexed: bool = False
    index: Int8Index = field(init=False)

    def __post_init__(self) -> None:
        self.n, self.t = self.key.shape[2], self.query.shape[2]
        self.new_key = self.key[:, :, self.n - self.t :].clone()
        self.new_value = self.value[:, :, self.n - self.t :].clone()
        self.middle = self.key[:, :, GLOBAL : self.n - LOCAL]
        self.cos, self.sin = rope_tables(GLOBAL + SPANS * SPAN + LOCAL, self.key.shape[3])
        if self.earlier is not None:
            self.indexed = True
            self.index = Int8Index.empty(1, self.key.shape[1], self.middle.shape[2], self.middle)
            self.index.update(self.middle)
            topk_keys_int8(self.earlier, self.middle[:, :, : -self.t], self.index, TOP_K)
            self._remembered = self.index.winners.clone()

    def winners(self) -> Tensor:
        if self.indexed:
            self.index.winners.copy_(self._remembered)
            return topk_keys_int8(self.query, self.middle, self.index, TOP_K)[0]
        return topk_keys_triton(self.query, self.middle, TOP_K)

    def select(self) -> tuple[Tensor, Tensor]:
        """top-k, rescoring, votes, spans."""
        return select_positions_triton(self.winners(), self.middle.shape[2], SPANS, SPAN)

    def step(self) -> Tensor:
        """Append, selection, gather, RoPE, attention."""
        first = self.n - self.t
        self.key[:, :, first:].copy_(self.new_key)
        self.value[:, :, first:].copy_(self.new_value)
        if self.indexed:
            self.index.size = self.middle.shape[2] - self.t  # as many keys leave the local window
            self.index.update(self.middle)
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


def made_layer(kind: str, n: int, t: int, indexed: bool = False) -> Layer:
    """Synthetic queries, keys and values, 32 heads over 8 KV heads."""
    query = make_queries(kind, HEADS, t, HEAD_DIM, seed=1)
    key = make_keys(kind, KV_HEADS, n, HEAD_DIM, seed=2)
    value = make_keys(kind, KV_HEADS, n, HEAD_DIM, seed=3)
    earlier = make_queries(kind, HEADS, t, HEAD_DIM, seed=4) if indexed else None
    return Layer(query, key, value, earlier)


def real_layer(keys: RealLayer) -> Layer:
    """A real model's queries and keys, with the index; values are random."""
    query, earlier, key = (x[None].cuda() for x in (keys.query, keys.earlier, keys.key))
    value = make_keys("random", key.shape[1], key.shape[2], key.shape[3], seed=3, dtype=key.dtype)
    return Layer(query, key, value, earlier)


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
