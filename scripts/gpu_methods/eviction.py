"""Plans of run.sh: methods through kvpress, which want transformers 4.57.

Nothing of documents, which fit into the budget: nothing is evicted. RULER at one length, since
their steps are launched kernel by kernel and take minutes a cell; h2o at 16,384 tokens, whose
attention weights take some 20 GB (four times that at twice the length).
"""

from configs.datasets import methods_table as _table
from configs.methods.equal_budgets import budget_8192 as _seen
from configs.methods.equal_budgets import budget_16416 as _seen_16416
from configs.methods.equal_budgets import question_unseen_8192 as _unseen

_needles, _ruler = _table.inside
_names = ("snapkv", "keydiff", "pyramidkv", "tova", "expected_attention")
_methods = [m for name in _names for m in [*_seen, *_unseen] if m["type"] == name]
_twice = [m for name in _names for m in _seen_16416 if m["type"] == name]
_h2o = [m for m in _seen if m["type"] == "h2o"]

plans = [
    dict(_ruler, lengths=[2**15], methods=_methods),
    dict(_needles, lengths=[2**14], methods=[*_methods, *_h2o]),
    # beyond the window their prompts lose their middle
    dict(_table.beyond[0], lengths=[2**16, 2**17], methods=_methods[:1]),
    dict(_needles, lengths=[2**15], methods=_twice),
    dict(_ruler, lengths=[2**15], methods=_twice),
]
