"""InfLLM as loops, for one row, written from the paper's sentences and sharing no code with the
package."""

from __future__ import annotations

from naive_distances import attend_pairs
from naive_reattention import Naive, dot


class NaiveBlocks:
    """One layer: `chosen` are the blocks that the last chunk attended to, `seen` the number of keys
    that its last query did."""

    def __init__(self, first, local, size, representatives, top_k):
        self.first, self.local, self.size = first, local, size
        self.representatives, self.top_k = representatives, top_k
        self.keys, self.values, self.queries = [], [], []  # [kv heads, D], and [heads, D] for each
        self.kept = {}

    def attend(self, query, key, value, rope, scale):
        """A chunk: [T, heads, D] and twice [T, kv heads, D] -> by token and head, [D]."""
        for parts, new in ((self.keys, key), (self.values, value), (self.queries, query)):
            parts.extend(new)
        n, heads, kv_heads = len(self.keys), query.shape[1], key.shape[1]
        self.group = heads // kv_heads
        chunk = range(n - len(query), n)
        whole = 0  # blocks of which every key had left the window when the chunk came
        while self.first + (whole + 1) * self.size <= n - len(query) - self.local:
            whole += 1
        ask = {b: sum(self.asked(b, i) for i in chunk) for b in range(whole)}
        self.chosen = sorted(sorted(ask, key=lambda b: (-ask[b], b))[: self.top_k])
        out = {}
        for i in chunk:

            def distance(i, j):
                if i - j < self.local:
                    return i - j
                block = (j - self.first) // self.size
                near = j < self.first or block in self.chosen or block >= whole
                return self.local if near else None

            self.seen = sum(distance(i, j) is not None for j in range(i + 1))
            for h in range(heads):
                kv = h // self.group
                keys, values = [k[kv] for k in self.keys], [v[kv] for v in self.values]
                out[i - chunk[0], h] = attend_pairs(
                    self.queries[i][h], keys, values, i, distance, rope, scale
                )
        return out

    def asked(self, block, i):
        """How much query i, of all heads, asks for a block."""
        return sum(
            dot(self.queries[i][h], self.keys[m][h // self.group])
            for h in range(len(self.queries[i]))
            for m in self.represented_by(block, h // self.group)
        )

    def represented_by(self, block, kv):
        if (block, kv) not in self.kept:
            start = self.first + block * self.size
            scores = {m: self.score(m, kv) for m in range(start, start + self.size)}
            best = sorted(scores, key=lambda m: (-scores[m], m))
            self.kept[block, kv] = best[: self.representatives]
        return self.kept[block, kv]

    def score(self, m, kv):
        """The mean product with the queries of the `local` tokens behind key m."""
        heads = range(kv * self.group, (kv + 1) * self.group)
        behind = range(m + 1, m + self.local + 1)
        products = [dot(self.queries[i][h], self.keys[m][kv]) for i in behind for h in heads]
        return sum(products) / self.local


class NaiveInfLLM(Naive):
    """A model of which every layer is `NaiveBlocks`."""

    def __init__(self, model, chunk_size, *rule):
        super().__init__(model, 0, 0, 0, 0, 0, chunk_size=chunk_size)
        self.layers = [NaiveBlocks(*rule) for _ in model.model.layers]

    def attention(self, index, module, x):
        config = self.model.config
        heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, 16
        query = module.q_proj(x).view(len(x), heads, dim)
        key = module.k_proj(x).view(len(x), kv_heads, dim)
        value = module.v_proj(x).view(len(x), kv_heads, dim)
        found = self.layers[index].attend(query, key, value, self.rope, dim**-0.5)
        out = x.new_zeros(len(x), heads, dim)
        for (t, h), answer in found.items():
            out[t, h] = answer
        return module.o_proj(out.flatten(1))
