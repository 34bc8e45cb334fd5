"""Attention whose rule is a distance for each pair of tokens, as loops, for one row, sharing no
code with the package."""

from __future__ import annotations

import math

import torch
from naive_reattention import Naive


class NaiveDistances(Naive):
    """`distance(i, j)`: what query i counts to key j <= i, None where it does not see it."""

    def __init__(self, model, distance):
        super().__init__(model, 0, 0, 0, 0, 0, chunk_size=1)
        self.distance = distance

    def attention(self, index, module, x):
        config = self.model.config
        heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, 16
        query = module.q_proj(x).view(len(x), heads, dim)
        keys, values = self.keys.setdefault(index, []), self.values.setdefault(index, [])
        keys.extend(module.k_proj(x).view(len(x), kv_heads, dim))
        values.extend(module.v_proj(x).view(len(x), kv_heads, dim))
        out = torch.zeros(len(x), heads, dim, dtype=x.dtype)
        for t in range(len(x)):
            i = len(keys) - len(x) + t
            for h in range(heads):
                kv = h // (heads // kv_heads)
                out[t, h] = attend_pairs(
                    query[t, h], [k[kv] for k in keys], [v[kv] for v in values], i,
                    self.distance, self.rope, dim**-0.5,
                )  # fmt: skip
        return module.o_proj(out.flatten(1))


def attend_pairs(query, keys, values, i, distance, rope, scale):
    """One query [D] at position i: each key's score is that of the query turned by the distance."""
    scores, seen = [], []
    for j in range(i + 1):
        d = distance(i, j)
        if d is not None:
            scores.append(float(rope(query, d) @ keys[j]) * scale)
            seen.append(j)
    weights = [math.exp(score - max(scores)) for score in scores]
    return sum(w / sum(weights) * values[j] for w, j in zip(weights, seen, strict=True))


def self_extend(group, window):
    def distance(i, j):
        return i - j if i - j < window else i // group - j // group + window - window // group

    return distance


def lm_infinite(first, window, limit):
    def distance(i, j):
        return min(i - j, limit) if j < first or i - j < window else None

    return distance
