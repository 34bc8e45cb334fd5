"""Attention of each query head over keys that it chooses at their own positions, as loops, for one
row, sharing no code with the package."""

from __future__ import annotations

import math

import torch
from naive_reattention import Naive


class NaiveChosen(Naive):
    """`choose(query, keys, read)`: positions that one query head [D], at the last of keys [n, D]
    (both rotated), attends to; `read`: it is a prompt's. The first `dense` layers take all.

    `counts`: for each layer and position, the mean number of keys over the heads.
    """

    def __init__(self, model, choose, dense=0):
        super().__init__(model, 0, 0, 0, 0, 0, chunk_size=1)
        self.choose, self.dense, self.read = choose, dense, True
        self.counts = {}

    def prefill(self, ids):
        self.read = True
        logits = super().prefill(ids)
        self.read = False
        return logits

    def attention(self, index, module, x):
        config = self.model.config
        heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, 16
        keys, values = self.keys.setdefault(index, []), self.values.setdefault(index, [])
        at = len(keys)
        query = module.q_proj(x).view(1, heads, dim)
        key = module.k_proj(x).view(1, kv_heads, dim)[0]
        keys.append([self.rope(k, at) for k in key])
        values.append(module.v_proj(x).view(1, kv_heads, dim)[0])
        out = torch.zeros(1, heads, dim, dtype=x.dtype)
        taken = []
        for h in range(heads):
            kv = h // (heads // kv_heads)
            q, seen = self.rope(query[0, h], at), torch.stack([k[kv] for k in keys])
            chosen = range(at + 1)
            if index >= self.dense:
                chosen = self.choose(q, seen, self.read)
            taken.append(len(chosen))
            out[0, h] = attend(q, seen, [v[kv] for v in values], chosen, dim**-0.5)
        self.counts[index, at] = sum(taken) / heads
        return module.o_proj(out.flatten(1))


def attend(query, keys, values, chosen, scale):
    scores = {j: float(query @ keys[j]) * scale for j in chosen}
    top = max(scores.values())
    weights = {j: math.exp(score - top) for j, score in scores.items()}
    return sum(w / sum(weights.values()) * values[j] for j, w in weights.items())


def quest(budget, page):
    """Pages by the largest product that any key within their bounds could have."""

    def choose(query, keys, read):
        n = len(keys)
        own = (n - 1) // page
        if read or n <= budget // page * page:
            return range(n)
        bounds = []
        for p in range(own):
            inside = keys[p * page : (p + 1) * page]
            bound = 0.0
            for d in range(len(query)):
                values = [float(k[d]) for k in inside]
                bound += max(float(query[d]) * min(values), float(query[d]) * max(values))
            bounds.append((-bound, p))
        pages = sorted(p for _, p in sorted(bounds)[: budget // page - 1])
        return [j for p in [*pages, own] for j in range(p * page, min((p + 1) * page, n))]

    return choose


def topk(budget, prefill="chosen"):
    def choose(query, keys, read):
        if read and prefill == "full":
            return range(len(keys))
        order = sorted(range(len(keys)), key=lambda j: (-float(query @ keys[j]), j))
        return sorted(order[:budget])

    return choose


def topp(p, prefill="chosen", budget=None):
    def choose(query, keys, read):
        if read and prefill == "full":
            return range(len(keys))
        scores = [float(query @ k) * len(query) ** -0.5 for k in keys]
        weights = [math.exp(score - max(scores)) for score in scores]
        order, chosen, mass = sorted(range(len(keys)), key=lambda j: (-scores[j], j)), [], 0.0
        while mass < p and len(chosen) < len(order):
            chosen.append(order[len(chosen)])
            mass += weights[chosen[-1]] / sum(weights)
        return sorted(chosen[:budget])

    return choose
