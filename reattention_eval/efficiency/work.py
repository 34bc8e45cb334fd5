"""What a prompt and a decode step ask of a GPU, counted from shapes alone."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from math import ceil

from reattention_eval.cache.tiers import DEVICE, VALUES_ON_HOST
from reattention_eval.efficiency.shape import ModelShape
from reattention_eval.methods import (
    FullAttention,
    Method,
    ReAttention,
    ReAttentionPlus,
    ViewMethod,
)
from reattention_eval.methods.forward_size import MOST_TOKENS

_SIZES = (
    "chunk_size", "global_size", "local_size", "span_size", "max_spans", "allow_beyond_window",
)  # fmt: skip
TIMED = "full and reattention (any sizes, other settings by default)"  # `can_be_timed`


@dataclass(frozen=True)
class PromptWork:
    """Of a whole prompt, over all layers.

    Attributes:
        linear: floating-point operations of the model's linear layers, the head once.
        scores: of the products of queries and keys that a selection needs.
        attention: of attention over the whole cache or over views (QK^T and PV).
        rescored: query heads whose best blocks are scored again.
        launched: layers times forwards.
    """

    linear: float
    scores: float
    attention: float
    rescored: float
    launched: float

    @property
    def parts(self) -> tuple[float, ...]:
        return astuple(self)


@dataclass(frozen=True)
class StepWork:
    """Of a decode step.

    Attributes:
        read: bytes of weights, keys and values.
        layers: of the model.
        selecting: those that select.
    """

    read: float
    layers: float
    selecting: float

    @property
    def parts(self) -> tuple[float, ...]:
        return astuple(self)


@dataclass(frozen=True)
class Transfers:
    """Bytes between a GPU and host memory in a tier.

    Attributes:
        meanwhile: while the GPU computes: values that leave, keys that are scanned.
        awaited: of values that a view needs before it is attended: of a prompt if none stayed
            from the view before.
    """

    meanwhile: float
    awaited: float


def can_be_timed(method: Method) -> bool:
    """Whether what the method does is counted here: full attention, and ReAttention of any sizes
    that is otherwise its own default."""
    if type(method) is FullAttention:
        return True
    own = ReAttention()
    sizes = {name: getattr(own, name) for name in _SIZES}
    return type(method) is ReAttention and replace(method, **sizes) == own


def counted_as(method: Method) -> FullAttention | ReAttention | None:
    """The method whose times tell this one's: itself, or, where `reattention_plus` differs from
    its own defaults in sizes alone, `reattention` of the same sizes; None where nothing does."""
    if type(method) is ReAttentionPlus and method.last_tokens == ReAttentionPlus.last_tokens:
        method = ReAttention(**{**method.settings(), "last_tokens": None})
    if isinstance(method, (FullAttention, ReAttention)) and can_be_timed(method):
        return method
    return None


def prompt_work(
    shape: ModelShape, method: ViewMethod, tokens: int, forward: int = MOST_TOKENS
) -> PromptWork:
    """Of a prompt of `tokens` tokens in forwards of `forward` tokens; beyond its scope a method is
    counted as one that selects."""
    heads = float(shape.layers * shape.heads)
    scores = attention = rescored = 0.0
    for end, queries in _chunks(method.chunk_size, tokens):
        if method.selects(end):
            scores += 2 * queries * _middle(method, end) * heads * shape.head_dim
            attention += 4 * queries * min(method.budget or end, end) * heads * shape.head_dim
            rescored += queries * heads
        else:
            attention += 4 * queries * (end - queries / 2) * heads * shape.head_dim
    linear = 2.0 * shape.layers * shape.layer_parameters * tokens + 2.0 * shape.embedding_parameters
    return PromptWork(linear, scores, attention, rescored, shape.layers * ceil(tokens / forward))


def step_work(shape: ModelShape, method: ViewMethod, tokens: int, itemsize: int) -> StepWork:
    """Of one token behind `tokens` others."""
    weights = shape.layers * shape.layer_parameters + shape.embedding_parameters
    key = shape.layers * shape.kv_heads * shape.head_dim
    selects = method.selects(tokens + 1)
    keys = _middle(method, tokens) if selects else 2 * tokens
    return StepWork(
        float((weights + key * keys) * itemsize), shape.layers, shape.layers if selects else 0
    )


def prompt_transfers(
    shape: ModelShape, method: ReAttention, tokens: int, itemsize: int, tier: str, forward: int,
    share: float = 1.0,
) -> Transfers:  # fmt: skip
    """Of a prompt whose cache lies in `tier`; share: of the layers, in "host" those whose keys are
    there."""
    if tier == DEVICE:
        return Transfers(0, 0)
    token = float(shape.layers * shape.kv_heads * shape.head_dim * itemsize)
    views = sum(_selected(method, end) for end, _ in _chunks(method.chunk_size, tokens))
    if tier == VALUES_ON_HOST:
        return Transfers(tokens * token, views * token)
    keys = sum(min(end, tokens) for end in range(forward, tokens + forward, forward))
    return Transfers((tokens + share * (tokens + keys)) * token, views * token)


def step_transfers(
    shape: ModelShape, method: ReAttention, tokens: int, itemsize: int, tier: str,
    share: float = 1.0,
) -> Transfers:  # fmt: skip
    """Of one token behind `tokens` others; share: as for `prompt_transfers`. What it selects was
    selected for the token before as often as at random."""
    if tier == DEVICE:
        return Transfers(0, 0)
    token = float(shape.layers * shape.kv_heads * shape.head_dim * itemsize)
    selected = _selected(method, tokens + 1)
    values = selected and selected * (1 - selected / _middle(method, tokens + 1)) * token
    return Transfers(0 if tier == VALUES_ON_HOST else share * tokens * token, values)


def _chunks(size: int, tokens: int) -> list[tuple[int, int]]:
    """(tokens behind a chunk, its own) for each chunk of a prompt."""
    ends = [min(end, tokens) for end in range(size, tokens + size, size)]
    return [(end, end - start) for start, end in zip([0, *ends], ends, strict=False)]


def _middle(method: ViewMethod, tokens: int) -> int:
    fixed = method.global_size + method.local_size if isinstance(method, ReAttention) else 0
    return max(0, tokens - fixed)


def _selected(method: ReAttention, tokens: int) -> int:
    """Keys of a view between its first and last part, at most."""
    if not method.selects(tokens):
        return 0
    return min(method.max_spans * method.span_size, _middle(method, tokens))
