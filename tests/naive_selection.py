"""ReAttention's rules beside the paper's, as loops on top of the naive form.

`views[(layer, tokens)]` are then a list for each KV head.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import torch
from naive_reattention import Naive, dot

WHOLE = 255  # what a vote counts at most


@dataclass
class NaiveSelection(Naive):
    per_kv_head: bool = False
    votes: str = "count"
    span_grid: bool = False
    vote_memory: int = 0
    layer_slope: float = 0.0
    alone: dict = field(default_factory=dict)  # (layer, head, tokens) -> [(position, weight)]

    def attention(self, index, module, x):
        config = self.model.config
        heads, kv_heads, dim = (
            config.num_attention_heads, config.num_key_value_heads, module.head_dim
        )  # fmt: skip
        query = module.q_proj(x).view(len(x), heads, dim)
        keys = self.keys.setdefault(index, [])
        values = self.values.setdefault(index, [])
        keys.extend(module.k_proj(x).view(len(x), kv_heads, dim))
        values.extend(module.v_proj(x).view(len(x), kv_heads, dim))
        group = heads // kv_heads
        voters = [range(h * group, (h + 1) * group) for h in range(kv_heads)]
        if not self.per_kv_head:
            voters = [range(heads)]
        views = [self.view_of(index, own, query, keys, group) for own in voters]
        views = views if self.per_kv_head else views * kv_heads
        self.views[index, len(keys)] = views
        out = torch.zeros(len(x), heads, dim, dtype=x.dtype)
        for h in range(heads):
            view = views[h // group]
            turned = [self.rope(keys[j][h // group], i) for i, j in enumerate(view)]
            for t in range(len(x)):
                place = len(view) - len(x) + t
                q = self.rope(query[t, h], place)
                scores = [float(q @ k) / math.sqrt(dim) for k in turned[: place + 1]]
                weights = [math.exp(score - max(scores)) for score in scores]
                for weight, j in zip(weights, view, strict=False):
                    out[t, h] += weight / sum(weights) * values[j][h // group]
        return module.o_proj(out.flatten(1))

    def view_of(self, layer, heads, query, keys, group):
        n, first = len(keys), self.global_size
        stop = n - self.local_size
        if n <= first + self.local_size + self.max_spans * self.span_size:
            return list(range(n))
        ballots = []
        for t in range(len(query)):
            for h in heads:
                scored = sorted(
                    (-dot(query[t, h], keys[j][h // group]), j) for j in range(first, stop)
                )
                scores = [-s / math.sqrt(len(keys[0][0])) for s, _ in scored[: self.top_k + 1]]
                named = [j for _, j in scored[: self.top_k]]
                ballots += zip(named, self.weights(scores, len(named)), strict=True)
        if len(query) == 1 and self.vote_memory:
            ballots = self.remember(layer, heads, n, ballots)
        votes: Counter[int] = Counter()
        for j, weight in ballots:
            named = (j - first) // self.span_size if self.span_grid else j
            votes[named] += weight
        kept = sorted(votes, key=lambda j: (-votes[j], j))[: self.spans(layer)]
        chosen = set()
        for p in kept:
            start = p - self.span_size // 2
            if self.span_grid:
                start = first + p * self.span_size
            chosen.update(range(start, start + self.span_size))
        selected = sorted(chosen & set(range(first, stop)))
        return [*range(first), *selected, *range(stop, n)]

    def weights(self, scores, count):
        if self.votes == "count":
            return [WHOLE if self.vote_memory else 1] * count
        if self.votes == "rank":
            return [math.ceil(WHOLE / (i + 1)) for i in range(count)]
        if self.votes == "mass":
            chances = [math.exp(s - scores[0]) for s in scores[:count]]
            shares = [chance / sum(chances) for chance in chances]
        else:
            left = scores[count] if len(scores) > count else -math.inf
            shares = [1 - math.exp(left - s) for s in scores[:count]]
        return [min(WHOLE, max(1, math.ceil(WHOLE * share - 0.25))) for share in shares]

    def remember(self, layer, heads, n, ballots):
        self.alone[layer, heads, n] = ballots
        pooled = list(ballots)
        for ago in range(1, self.vote_memory + 1):
            if (layer, heads, n - ago) not in self.alone:
                break
            part = (self.vote_memory + 1 - ago) / (self.vote_memory + 1)
            pooled += [(j, math.ceil(w * part)) for j, w in self.alone[layer, heads, n - ago]]
        return pooled

    def spans(self, layer):
        layers = self.model.config.num_hidden_layers
        along = layer / (layers - 1) if layers > 1 else 0.5  # from 0 to 1
        step = max(1, round(abs(self.layer_slope) * self.max_spans) // 4)
        more = self.layer_slope * self.max_spans * (1 - 2 * along)
        return self.max_spans + step * round(more / step)
