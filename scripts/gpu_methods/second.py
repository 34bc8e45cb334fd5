"""Plans of run.sh for a second, smaller model: needles at 32K and 128K, two RULER tasks at 32K."""

from configs.datasets import methods_table as _table
from configs.methods.equal_budgets import question_alone_8192 as _question_alone

_needles, _ruler = _table.inside
_far_needles, _ = _table.beyond
_needles_as_is, _, _ = _table.as_is
_K = 2**10


def _budget(*names):
    return [dict(type=name, budget_tokens=8192) for name in names]


_any_length = [*_budget("reattention", "reattention_plus", "streaming_llm"), *_question_alone]
_inside = [dict(type="full"), *_any_length, *_budget("quest"), dict(type="yarn")]

plans = [
    dict(_needles, lengths=[32 * _K], methods=[*_inside, *_budget("infllm")]),
    dict(_far_needles, lengths=[128 * _K], methods=_any_length),
    dict(_ruler, tasks=["niah_multikey_1", "vt"], lengths=[32 * _K], methods=_inside),
    dict(_needles_as_is, lengths=[128 * _K], methods=[dict(type="yarn")]),
]
