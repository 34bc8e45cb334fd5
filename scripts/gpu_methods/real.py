"""Plans of run.sh: reattention_plus on what results/qwen2.5-coder-1.5b asks of the paper's rule.

RULER where the prompt is longer than the budget, needles to a million tokens.
"""

from configs.datasets.needle_many_depths import many_depths as _many_depths
from configs.datasets.real_tables import ruler as _ruler

_plus = [dict(type="reattention_plus", budget_tokens=16416)]

plans = [
    dict(plan, methods=_plus)
    for plan in [
        dict(_ruler[0], lengths=[2**15]),
        _many_depths[0],
        _ruler[1],
        _many_depths[1],
        _ruler[2],
    ]
]
