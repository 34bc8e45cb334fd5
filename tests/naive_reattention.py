"""ReAttention as loops, for one row, written from the rules and sharing no code with the package.

Every step is one sentence of the definition; the model's own projections, norms and MLPs are used,
its attention, cache and RoPE are not.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import torch


@dataclass
class Naive:
    """State and answers: `views[(layer, tokens)]` are the positions attended at that length."""

    model: torch.nn.Module
    global_size: int
    local_size: int
    span_size: int
    top_k: int
    max_spans: int
    chunk_size: int
    select_from: str = "scope"
    block_max: bool = False
    keys: dict = field(default_factory=dict)
    values: dict = field(default_factory=dict)
    views: dict = field(default_factory=dict)
    turns: dict = field(default_factory=dict)

    def prefill(self, ids: list[int]) -> torch.Tensor:
        for start in range(0, len(ids), self.chunk_size):
            logits = self.chunk(ids[start : start + self.chunk_size])
        return logits

    @torch.no_grad()
    def chunk(self, ids: list[int]) -> torch.Tensor:
        """Logits of the last token of a chunk (a decode step is a chunk of one)."""
        decoder = self.model.model
        hidden = decoder.embed_tokens(torch.tensor(ids))  # [T, hidden]
        for index, layer in enumerate(decoder.layers):
            attended = self.attention(index, layer.self_attn, layer.input_layernorm(hidden))
            hidden = hidden + attended
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return self.model.lm_head(decoder.norm(hidden[-1]))

    def attention(self, index: int, module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        config = self.model.config
        heads, kv_heads, dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            module.head_dim,
        )
        query = module.q_proj(x).view(len(x), heads, dim)
        key = module.k_proj(x).view(len(x), kv_heads, dim)
        value = module.v_proj(x).view(len(x), kv_heads, dim)
        if hasattr(module, "q_norm"):
            query, key = module.q_norm(query), module.k_norm(key)
        keys = self.keys.setdefault(index, [])
        values = self.values.setdefault(index, [])
        keys.extend(key)
        values.extend(value)
        group = heads // kv_heads
        view = self.view(query, keys, group)
        self.views[index, len(keys)] = view
        out = torch.zeros(len(x), heads, dim, dtype=x.dtype)
        for h in range(heads):
            turned = [self.rope(keys[j][h // group], i) for i, j in enumerate(view)]
            for t in range(len(x)):
                place = len(view) - len(x) + t  # the query's place in the view
                q = self.rope(query[t, h], place)
                scores = [float(q @ k) / math.sqrt(dim) for k in turned[: place + 1]]
                top = max(scores)
                weights = [math.exp(score - top) for score in scores]
                for weight, j in zip(weights, view, strict=False):
                    out[t, h] += weight / sum(weights) * values[j][h // group]
        return module.o_proj(out.flatten(1))

    def view(self, query: torch.Tensor, keys: list, group: int) -> list[int]:
        n = len(keys)
        fixed = self.global_size + self.local_size
        scope = fixed + self.max_spans * self.span_size
        if n <= (fixed if self.select_from == "local" else scope):
            return list(range(n))
        middle = list(range(self.global_size, n - self.local_size))
        votes: Counter[int] = Counter()
        for t in range(query.shape[0]):
            for h in range(query.shape[1]):
                scored = [(-dot(query[t, h], keys[j][h // group]), j) for j in middle]
                if self.block_max:
                    blocks = [scored[i : i + 128] for i in range(0, len(scored), 128)]
                    scored = [min(block) for block in blocks]
                votes.update(j for _, j in sorted(scored)[: self.top_k])
        kept = sorted(votes, key=lambda j: (-votes[j], j))[: self.max_spans]
        chosen = set()
        for p in kept:
            start = p - self.span_size // 2
            chosen.update(range(start, start + self.span_size))
        selected = sorted(chosen & set(middle))
        return list(range(self.global_size)) + selected + list(range(n - self.local_size, n))

    def rope(self, x: torch.Tensor, position: int) -> torch.Tensor:
        """Default RoPE: dimension pairs (i, i + D/2) turned by position * theta^(-2i/D)."""
        half = len(x) // 2
        cos, sin = self.turn(position, half)
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        return torch.cat((x[:half] * cos - x[half:] * sin, x[half:] * cos + x[:half] * sin))

    def turn(self, position: int, half: int) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin of one position, in float32 as transformers computes them."""
        if position not in self.turns:
            rope = getattr(self.model.config, "rope_parameters", None) or {}
            theta = torch.tensor(rope.get("rope_theta") or self.model.config.rope_theta)
            frequency = 1.0 / theta ** (torch.arange(half) / half)
            angle = position * frequency
            self.turns[position] = angle.cos(), angle.sin()
        return self.turns[position]


def dot(one: torch.Tensor, other: torch.Tensor) -> float:
    """A product whose rounding depends on the two vectors alone: the second half of the terms is
    added to the first, until one is left."""
    terms = [a * b for a, b in zip(one.tolist(), other.tolist(), strict=True)]
    while len(terms) > 1:
        half = (len(terms) + 1) // 2
        rest = terms[half:] + [0.0] * (2 * half - len(terms))
        terms = [a + b for a, b in zip(terms[:half], rest, strict=True)]
    return terms[0]
