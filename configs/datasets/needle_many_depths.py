"""Needles at many depths of one haystack: one prefill serves all 11 depths. 32K to 4M tokens.

n is depths x haystacks: 55 up to 512K, then 33, 22 and 11. The haystack is Paul Graham's essays,
then Shakespeare's plays, then paragraphs of Wikipedia. Full attention is asked to 512K.
"""

_ask = dict(
    benchmark="needle", style="many_depths", depths=[0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100],
    haystack="long", max_out_len=16,
)  # fmt: skip
_beyond = [dict(type="streaming_llm"), dict(type="reattention")]

many_depths = [
    dict(lengths=[2**15, 2**16, 2**17, 2**18, 2**19], repeats=5, **_ask),
    dict(lengths=[2**20], repeats=3, methods=_beyond, **_ask),
    dict(lengths=[2**21], repeats=2, methods=_beyond, **_ask),
    dict(lengths=[2**22], repeats=1, methods=_beyond, **_ask),
]
