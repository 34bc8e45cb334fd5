"""Plans of run.sh like times.py: methods through kvpress, on their transformers."""

from configs.methods.equal_budgets import budget_8192 as _budget

_names = ("snapkv", "keydiff", "pyramidkv", "tova", "expected_attention")

plans = [
    dict(
        benchmark="needle",
        style="many_depths",
        depths=[50],
        haystack="long",
        max_out_len=16,
        repeats=3,
        lengths=[2**15],
        methods=[method for method in _budget if method["type"] in _names],
    )
]
