"""Which keys eviction keeps, as loops over the papers' rules, one query and one key at a time.

Every function: queries [H, T, D] and keys [Hkv, N, D], rotated -> for each KV head the positions
kept, ascending.
"""

from __future__ import annotations

import math

import torch


def softmax_weights(query, keys):
    """Attention of one query [D] to keys [n, D]."""
    logits = [float(query @ key) / math.sqrt(len(query)) for key in keys]
    top = max(logits)
    weights = [math.exp(x - top) for x in logits]
    return [w / sum(weights) for w in weights]


def best(scores, n):
    """Indices of the n largest, ascending."""
    return sorted(sorted(range(len(scores)), key=lambda i: -scores[i])[:n])


def snapkv(queries, keys, keep, window=64, kernel=5):
    """Observation window, average pooling, the mean over a KV head's query heads (section 4)."""
    n, group = keys.shape[1], len(queries) // len(keys)
    kept = []
    for kv in range(len(keys)):
        pooled = [0.0] * (n - window)
        for head in range(kv * group, (kv + 1) * group):
            seen = [0.0] * (n - window)
            for t in range(n - window, n):
                weights = softmax_weights(queries[head, t], keys[kv, : t + 1])
                for j in range(n - window):
                    seen[j] += weights[j] / window
            for j in range(n - window):
                near = range(j - kernel // 2, j + kernel // 2 + 1)
                mean = sum(seen[i] for i in near if 0 <= i < n - window) / kernel
                pooled[j] += mean / group
        kept.append([*best(pooled, keep - window), *range(n - window, n)])
    return kept


def tova(queries, keys, keep):
    """The last token's attention, mean over all heads; the same keys in every head (section 3)."""
    n, group = keys.shape[1], len(queries) // len(keys)
    mean = [0.0] * (n - 1)
    for head in range(len(queries)):
        weights = softmax_weights(queries[head, n - 1], keys[head // group])
        for j in range(n - 1):
            mean[j] += weights[j] / len(queries)
    return [[*best(mean, keep - 1), n - 1]] * len(keys)


def keydiff(queries, keys, keep):
    """Keys least like the mean of all directions (section 3)."""
    kept = []
    for own in keys:
        units = [key / key.norm() for key in own]
        anchor = sum(units) / len(units)
        kept.append(best([-float(u @ anchor / anchor.norm()) for u in units], keep))
    return kept


def positions_of(kept, all_keys):
    """kept [Hkv, m, D] among all_keys [Hkv, N, D]: positions of each KV head, ascending."""
    found = []
    for own, every in zip(kept, all_keys, strict=True):
        same = torch.stack([(every == key).all(-1) for key in own])
        assert bool((same.sum(1) == 1).all())
        found.append(sorted(same.int().argmax(1).tolist()))
    return found
