"""Attention over any views as loops, for one row, sharing no code with the package."""

from __future__ import annotations

import math

import torch
from naive_reattention import Naive


class NaiveViews(Naive):
    """Attention as loops; `seen` says for a KV head which keys, at which places, and where the
    queries are."""

    def __init__(self, model, seen, chunk_size):
        super().__init__(model, 0, 0, 0, 0, 0, chunk_size=chunk_size)
        self.seen = seen

    def attention(self, index, module, x):
        config = self.model.config
        heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, 16
        query = module.q_proj(x).view(len(x), heads, dim)
        keys, values = self.keys.setdefault(index, []), self.values.setdefault(index, [])
        keys.extend(module.k_proj(x).view(len(x), kv_heads, dim))
        values.extend(module.v_proj(x).view(len(x), kv_heads, dim))
        out = torch.zeros(len(x), heads, dim, dtype=x.dtype)
        for h in range(heads):
            kv = h // (heads // kv_heads)
            positions, places, at = self.seen([key[kv] for key in keys], kv, len(x))
            turned = [self.rope(keys[j][kv], p) for j, p in zip(positions, places, strict=True)]
            for t in range(len(x)):
                visible = len(positions) - (len(x) - 1 - t)
                q = self.rope(query[t, h], at[t])
                scores = [float(q @ k) / math.sqrt(dim) for k in turned[:visible]]
                weights = [math.exp(score - max(scores)) for score in scores]
                for weight, j in zip(weights, positions, strict=False):
                    out[t, h] += weight / sum(weights) * values[j][kv]
        return module.o_proj(out.flatten(1))


def whole(n, t):
    return list(range(n)), list(range(n)), list(range(n - t, n))
