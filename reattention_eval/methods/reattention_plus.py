"""ReAttention with what was measured to find more at the same number of keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from reattention_eval.methods.reattention import QUESTION_TOKENS, ReAttention

LOCAL_SHARE = 8


@dataclass(frozen=True)
class ReAttentionPlus(ReAttention):
    """ReAttention with other defaults: an eighth of the scope is local, and the last tokens of
    every prompt and turn choose by themselves.

    The paper's rule and sizes (`ReAttention`) give the question no chunk of its own and half of
    the keys to the text just before it. Both were varied at 8,192 keys (results/ablation); not in
    the paper.

    Args: as `ReAttention`.
    """

    name: ClassVar[str] = "reattention_plus"
    source: ClassVar[str] = "this project, on arXiv 2407.15176 (docs/methods.md)"
    local_size: int = 1024
    max_spans: int = 223
    last_tokens: int | str | None = QUESTION_TOKENS

    @classmethod
    def budget_settings(cls, tokens: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """An eighth is local, in whole chunks and at least one; the spans take the rest, as for
        `ReAttention`."""
        return cls._sized(tokens, given, LOCAL_SHARE)
