"""Needles at many depths (n = 22 a length), 32K and 128K; two of RULER's tasks (n = 20), 32K.

What they ask at each length is what methods_table.py asks there.
"""

plans = [
    dict(
        benchmark="needle",
        style="many_depths",
        depths=[0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100],
        lengths=[2**15, 2**17],
        repeats=2,
        haystack="long",
        max_out_len=16,
    ),
    dict(benchmark="ruler", tasks=["niah_multikey_1", "vt"], samples=20, lengths=[2**15]),
]
