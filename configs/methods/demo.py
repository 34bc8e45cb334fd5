"""Full attention, and StreamingLLM and ReAttention at one budget of 4,096 tokens.

32 + 4,064 = 32 + 1,024 + 95 x 32 = 4,096: half of the embedded model's window, a short local part
and many spans, which served this model best in first trials.
"""

methods = [
    dict(type="full"),
    dict(type="streaming_llm", sink_size=32, window_size=4064, chunk_size=512),
    dict(
        type="reattention",
        global_size=32,
        local_size=1024,
        span_size=32,
        top_k=4,
        max_spans=95,
        chunk_size=512,
    ),
]
