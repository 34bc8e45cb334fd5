"""Plans of run.sh: methods that run on any transformers, the cells that tell most a second first.

The datasets are those of configs/datasets/methods_table.py and ablation.py, so that what is run
here stands under the same names as what `opencompass` runs. Left out is what equals full attention
because the prompt fits into the budget.
"""

from configs.datasets import ablation as _ablation
from configs.datasets import methods_table as _table
from configs.methods.ablation import ablations as _groups

_needles, _ruler = _table.inside
_far_needles, _far_ruler = _table.beyond
_needles_as_is, _, _ruler_as_is = _table.as_is
_varied_needles, _varied_ruler = _ablation.plans
_K = 2**10


def _budget(budget, *names):
    return [dict(type=name, budget_tokens=budget) for name in names]


def _alone(budget):
    return dict(_budget(budget, "reattention")[0], last_tokens="document", last_alone=True)


def _of(*names):
    """The methods of these groups of the ablation, each once."""
    found = []
    for name in names:
        found += [method for method in _groups[name] if method not in found]
    return found


_8K_any_length = [
    *_budget(8192, "reattention", "reattention_plus", "streaming_llm", "infllm"),
    _alone(8192),
]
_quest = _budget(8192, "quest")
_8K = [*_8K_any_length, *_quest, *_budget(8192, "oracle_topk", "lm_infinite")]
_16K = _budget(16416, "reattention", "reattention_plus", "streaming_llm")
_16K_any_length = [*_16K, _alone(16416)]
_infllm = _budget(16416, "infllm")
_full = [dict(type="full")]
_all_keys = [dict(type=name) for name in ("yarn", "dynamic_ntk", "linear")]
_dca = [dict(type="dca")]
_slow = [*_dca, dict(type="self_extend")]
_rules = _of("votes", "span_grid", "per_kv_head", "last_tokens")
_sizes = _of("chunk", "span", "top_k", "local", "selection", "budget", "score")
_together = _of("together")
_all_varied = _of(*_groups)

plans = [
    dict(_varied_ruler, methods=_together),
    dict(_far_ruler, methods=[*_16K_any_length, *_full]),
    dict(_varied_needles, lengths=[128 * _K], methods=_together),
    dict(_ruler, lengths=[32 * _K], methods=_8K_any_length),
    dict(_far_needles, lengths=[256 * _K], methods=_16K_any_length),
    dict(_far_needles, lengths=[64 * _K, 128 * _K], methods=[*_8K_any_length, *_16K_any_length]),
    dict(_needles, lengths=[16 * _K], methods=[*_full, *_8K, *_slow, *_all_keys]),
    dict(_varied_needles, lengths=[32 * _K], methods=_together),
    dict(_ruler, lengths=[16 * _K], methods=[*_full, *_8K_any_length, *_quest, *_all_keys]),
    dict(_needles, lengths=[32 * _K], methods=_16K),
    dict(_ruler, lengths=[32 * _K], methods=_16K),
    *[dict(plan, methods=[*_full, *_16K_any_length, *_8K]) for plan in _table.documents],
    dict(_needles_as_is, lengths=[64 * _K, 128 * _K], methods=[*_full, dict(type="dynamic_ntk")]),
    dict(_ruler, lengths=[32 * _K], methods=_dca),
    dict(_varied_ruler, methods=_rules),
    dict(_varied_needles, methods=_sizes),
    dict(_ruler_as_is, methods=[*_full, *_all_keys, *_dca]),
    dict(_varied_needles, methods=_all_varied),
    dict(_varied_ruler, methods=_all_varied),
    dict(_needles, lengths=[32 * _K], methods=_budget(16416, "quest", "infllm", "lm_infinite")),
    dict(_needles_as_is, methods=[*_full, dict(type="dynamic_ntk")]),
    dict(_far_needles, lengths=[256 * _K], methods=_infllm),
    dict(_needles_as_is, lengths=[128 * _K], methods=_slow),
    dict(_far_ruler, methods=_budget(8192, "reattention", "reattention_plus", "streaming_llm")),
    dict(_ruler, lengths=[32 * _K], methods=_budget(16416, "quest", "infllm")),
    dict(_ruler, lengths=[32 * _K], methods=[dict(type="self_extend")]),
]
