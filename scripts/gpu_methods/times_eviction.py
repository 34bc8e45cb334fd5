"""Plans of run.sh like times.py: methods through kvpress, on their transformers."""

from configs.datasets import methods_table as _table
from configs.methods.equal_budgets import budget_8192 as _budget

_names = ("snapkv", "keydiff", "pyramidkv", "tova", "expected_attention")

plans = [
    dict(
        _table.inside[0],
        depths=[50],
        repeats=3,
        lengths=[2**15],
        methods=[method for method in _budget if method["type"] in _names],
    )
]
