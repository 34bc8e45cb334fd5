"""ReAttention with one setting varied at a time, around the paper's scope of 8,192 tokens.

The scope stays 8,192 = 32 + 4,096 + 127 x 32 but in `budget`: other spans and local parts leave the
rest to the local part and to the number of spans.
"""

_base = dict(
    type="reattention", global_size=32, local_size=4096, span_size=32, top_k=4, max_spans=127,
    chunk_size=512,
)  # fmt: skip
_near = dict(local_size=1024, max_spans=223)

ablations = dict(
    chunk=[_base, *[dict(_base, chunk_size=size) for size in (1024, 2048)]],
    span=[
        _base,
        *[
            dict(_base, span_size=size, max_spans=4064 // size, local_size=4096 + 4064 % size)
            for size in (8, 16, 64, 128)
        ],
    ],
    top_k=[_base, *[dict(_base, top_k=k) for k in (1, 8)]],
    local=[
        _base,
        *[dict(_base, local_size=local, max_spans=(8160 - local) // 32) for local in (2048, 1024)],
    ],
    score=[_base, *[dict(_base, score=score) for score in ("qkv_l1", "qkv_l2")]],
    selection=[_base, dict(_base, selection="block_max")],
    budget=[
        _base,
        # scopes as `budget_tokens` makes them: half of it local
        dict(_base, local_size=1024, max_spans=31),  # 2,048
        dict(_base, local_size=2048, max_spans=63),  # 4,096
        dict(_base, local_size=8192, max_spans=256),  # 16,416
        dict(_base, local_size=16384, max_spans=511),  # 32,768
    ],
    last_tokens=[
        _base,
        dict(_base, last_tokens=1),  # as the released code reads the last token
        *[dict(_base, last_tokens=tokens) for tokens in (16, 48, 128, "document")],
        *[dict(_base, last_tokens=tokens, last_alone=True) for tokens in (48, "document")],
    ],
    # other rules than the paper's, of the same budget (docs/methods.md)
    per_kv_head=[
        _base,
        *[
            dict(_base, per_kv_head=True, **more)
            for more in ({}, dict(votes="mass"), dict(last_tokens="document", last_alone=True))
        ],
    ],
    votes=[_base, *[dict(_base, votes=votes) for votes in ("rank", "margin", "mass")]],
    span_grid=[_base, dict(_base, span_grid=True)],
    vote_memory=[
        _base,
        *[dict(_base, vote_memory=tokens) for tokens in (4, 16)],
        *[
            dict(_base, last_tokens="document", last_alone=True, **memory)
            for memory in ({}, dict(vote_memory=4), dict(vote_memory=16))
        ],
    ],
    layer_slope=[_base, *[dict(_base, layer_slope=slope) for slope in (-0.5, 0.5)]],
    # what helps by itself, together: a smaller local part, and the choice
    together=[
        _base,
        dict(_base, **_near),
        dict(_base, **_near, type="reattention_plus"),
        dict(_base, **_near, span_grid=True),
        dict(_base, **_near, type="reattention_plus", span_grid=True),
        dict(_base, local_size=1024, span_size=8, max_spans=892),
    ],
)
