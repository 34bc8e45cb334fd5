"""ReAttention at scopes from 2,048 to 8,192 tokens and StreamingLLM at the same budgets.

Local windows, spans and span sizes are those of the first trials on the embedded model
(at 16K the best were 1,024 + 95 x 32 and 1,024 + 31 x 32).
"""

_reattention = [
    # local_size, max_spans, span_size: 32 + local + spans x size
    (1024, 31, 32),  # 2,048
    (2048, 63, 32),  # 4,096
    (2048, 126, 16),  # 4,096
    (1024, 95, 32),  # 4,096
    (4096, 127, 32),  # 8,192
]

methods = [
    dict(type="full"),
    *[dict(type="streaming_llm", sink_size=32, window_size=budget - 32) for budget in (4096, 8192)],
    *[
        dict(
            type="reattention",
            global_size=32,
            local_size=local,
            span_size=size,
            top_k=4,
            max_spans=spans,
        )
        for local, spans, size in _reattention
    ],
]
