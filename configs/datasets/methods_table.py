"""What the table of all methods asks: needles at many depths, RULER, L-Eval and LongBench.

For a model with a window of 32K on a GPU, n >= 20 a cell: needles at 11 depths of 8K to 256K, four
tasks of RULER of different kinds at 8K to 64K, two tasks of L-Eval and two of LongBench (to 32K the
prompts of real_tables.py). Beyond the window methods that only work inside it lose the middle of
their prompts, by the paper's rule, and their rows say so; full attention, dynamic_ntk and what is
made for four windows also read them as they are. `million`: needles at 512K and 1M (n = 22 and 11)
for methods that read any length at a budget; for two that attend to all keys, which take minutes a
prompt, n = 3 at 512K, and dynamic_ntk alone, once, at 1M.
"""

_needles = dict(
    benchmark="needle", style="many_depths", depths=[0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100],
    haystack="long", max_out_len=16, repeats=2,
)  # fmt: skip
_ruler = dict(benchmark="ruler", tasks=["niah_multikey_1", "vt", "fwe", "qa_1"], samples=20)

inside = [
    dict(_needles, lengths=[2**13, 2**14, 2**15]),
    dict(_ruler, lengths=[2**13, 2**14, 2**15]),
]
documents = [
    dict(benchmark="leval", tasks=["quality", "multidoc_qa"], lengths=[31500], samples=20, seed=0),
    dict(
        benchmark="longbench", tasks=["multi_news", "multifieldqa_zh"], lengths=[31500],
        samples=20, seed=0,
    ),
]  # fmt: skip
beyond = [
    dict(_needles, lengths=[2**16, 2**17, 2**18], cut_at_window=True),
    dict(_ruler, lengths=[2**16], haystack="long", cut_at_window=True),
]
# as they are beyond the window and beyond what the paper's factor is for: nothing is cut
_as_is = [dict(type="full"), dict(type="dynamic_ntk")]
_four_windows = [dict(type=name) for name in ["yarn", "linear", "self_extend"]]
as_is = [
    dict(_needles, lengths=[2**16, 2**17, 2**18], methods=_as_is),
    dict(_needles, lengths=[2**16, 2**17], methods=_four_windows),
    dict(_ruler, lengths=[2**16], haystack="long", methods=[*_as_is, *_four_windows]),
]

_any_length = [
    dict(type="reattention", budget_tokens=16416),
    dict(type="reattention_plus", budget_tokens=16416),
    dict(type="reattention", budget_tokens=16416, last_tokens="document", last_alone=True),
    dict(type="streaming_llm", budget_tokens=16416),
    dict(type="infllm", budget_tokens=16416),
]
_dynamic_ntk = dict(type="dynamic_ntk")
million = [
    dict(_needles, lengths=[2**19], methods=_any_length),
    dict(_needles, repeats=1, lengths=[2**20], methods=_any_length),
    dict(
        _needles,
        depths=[10, 50, 90],
        repeats=1,
        lengths=[2**19],
        methods=[_dynamic_ntk, dict(type="dca")],
    ),
    dict(_needles, depths=[50], repeats=1, lengths=[2**20], methods=[_dynamic_ntk]),
]
