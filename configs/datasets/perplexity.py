"""Perplexity by position on Shakespeare's plays to 512K tokens; without full attention to 4M.

Behind the plays' 1.7M tokens come Paul Graham's essays and paragraphs of Wikipedia.
"""

by_position = [
    dict(benchmark="perplexity", lengths=[2**19]),
    dict(
        benchmark="perplexity",
        lengths=[2**22],
        methods=[dict(type="streaming_llm"), dict(type="reattention")],
    ),
]
