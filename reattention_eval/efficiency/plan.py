"""Memory of a prompt before anything is loaded: weights, KV cache and workspace of one GPU.

The cache is planned with the keys and values of all tokens, which is the most there are of them:
eviction drops them layer by layer behind the prompt. What differs is where they lie, and the view,
the part that is gathered, rotated and attended at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from reattention_eval.cache import TIERS, CacheShape, rounded_capacity, tier_bytes
from reattention_eval.cache.tiers import DEVICE
from reattention_eval.efficiency.shape import ModelShape
from reattention_eval.errors import ConfigError
from reattention_eval.methods import (
    Method,
    ViewMethod,
    forward_tokens,
    gathers,
    index_bytes,
    score_bytes,
)
from reattention_eval.methods.compiled import kernel_settings
from reattention_eval.methods.forward_size import HEAD_COPIES, forward_size, token_values

BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}
# cuBLAS's own workspace on Hopper; less elsewhere
_LIBRARIES = 32 << 20
# a view's key and value gathered, the key rotated, and what rotating needs meanwhile
_VIEW_COPIES = 5
# the best blocks of a query: 64 bits, 4 lanes, up to 8 splits of the keys
_CANDIDATE_BYTES = 8 * 4 * 8
# cosines, sines and what makes them, a quarter more than there are tokens, of a decode step whose
# view is the whole cache: bytes for each dimension of a head and token
_TABLE_BYTES = 1.25 * 19
# logits of the last token, in the model's dtype, in float32 and twice in float64
_LOGIT_BYTES = 2 + 4 + 2 * 8


@dataclass(frozen=True)
class Placement:
    """How a model lies on GPUs.

    Attributes:
        gpus: layers are spread over this many (device_map="auto").
        tensor_parallel: heads are spread over this many; one of the two is 1.
        dtype: of weights and cache.
        on_gpu: False for a CPU, whose attention builds a mask.
    """

    gpus: int = 1
    tensor_parallel: int = 1
    dtype: str = "bfloat16"
    on_gpu: bool = True

    def __post_init__(self) -> None:
        if self.dtype not in BYTES:
            raise ConfigError(f"unknown dtype {self.dtype!r}; choose from {', '.join(BYTES)}.")
        if self.gpus < 1 or self.tensor_parallel < 1:
            raise ConfigError("a model lies on at least one GPU; give numbers from 1 on.")
        if self.gpus > 1 and self.tensor_parallel > 1:
            raise ConfigError(
                "layers or heads are spread over GPUs, not both: give one of gpus and "
                "tensor_parallel."
            )

    @property
    def itemsize(self) -> int:
        return BYTES[self.dtype]


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on the fullest GPU; `host`: of the cache in host memory, over all GPUs."""

    weights: int
    cache: int
    workspace: int
    host: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.workspace

    def taken(self, placement: Placement) -> int:
        """Of a GPU's memory, or of the one that a machine without GPUs has."""
        return self.total + (0 if placement.on_gpu else self.host)


def tiers_of(method: Method) -> tuple[str, ...]:
    """Where a method's cache may lie: what is attended to at once has to be on the device."""
    return TIERS if method.budget and gathers(method) else (DEVICE,)


def plan_memory(
    shape: ModelShape,
    method: Method,
    tokens: int,
    placement: Placement,
    rows: int = 1,
    tier: str = DEVICE,
) -> MemoryPlan:
    """What `rows` prompts of `tokens` tokens, answer included, take on the fullest GPU.

    Raises:
        ConfigError: tensor_parallel does not divide the KV heads.
    """
    method = _on(shape, method)
    size = placement.itemsize
    parts, layers = placement.tensor_parallel, ceil(shape.layers / placement.gpus)
    if shape.kv_heads % parts:
        works = [n for n in range(1, shape.kv_heads + 1) if not shape.kv_heads % n]
        raise ConfigError(
            f"tensor_parallel {parts} does not divide the model's {shape.kv_heads} KV heads; "
            f"choose {', '.join(map(str, works))}."
        )
    # the first GPU holds the embedding, the last one the head; a tied one is held once
    tables = shape.embedding_parameters * (2 if placement.gpus == 1 and not shape.tied else 1)
    weights = (layers * shape.layer_bytes(size) + (tables + shape.hidden) * size) // parts
    held = CacheShape(layers, shape.kv_heads // parts, shape.head_dim, size)
    first, keys = kept_values(method)
    room = rounded_capacity(tokens)
    cache = tier_bytes(held, room, tier, keys, rows, first, _chosen(method))
    index = rows * layers * held.kv_heads * index_bytes(method, tokens, shape.head_dim)
    return MemoryPlan(
        weights=weights,
        cache=cache.device + index,
        workspace=_workspace(shape, method, tokens, placement, rows),
        host=cache.host * parts * placement.gpus,
    )


def peak_memory(
    shape: ModelShape, method: Method, tokens: int, placement: Placement, memory: int,
    rows: int = 1, tier: str = DEVICE,
) -> int:  # fmt: skip
    """Bytes that are expected at most on the fullest GPU, of `memory`: a plan's weights and cache,
    and a forward as large as the session takes, which is more than `plan_memory` wants at least.
    """
    method = _on(shape, method)
    plan = plan_memory(shape, method, tokens, placement, rows, tier)
    if not placement.on_gpu or not isinstance(method, ViewMethod):
        return plan.total
    size, parts = placement.itemsize, placement.tensor_parallel
    carried = rows * prompt_forward(shape, method, tokens, placement, memory, rows, tier)
    heads, kv_heads = shape.heads // parts, shape.kv_heads // parts
    # the residual stream and its norm; gate, up and their product, or queries, keys and values
    mlp = carried * (3 * shape.hidden + 3 * shape.intermediate // parts) * size
    wide = HEAD_COPIES * (heads + 2 * kv_heads) * shape.head_dim
    attention = carried * (3 * shape.hidden + wide) * size + _view_bytes(
        shape, method, tokens, placement, carried
    )
    table = 0 if gathers(method) else _TABLE_BYTES * shape.head_dim * rounded_capacity(tokens)
    logits = rows * shape.vocabulary * _LOGIT_BYTES
    # cuBLAS works on two streams: decode steps are captured on one of their own
    return plan.weights + plan.cache + 2 * _LIBRARIES + logits + max(mlp, attention, int(table))


def largest_length(
    shape: ModelShape, method: Method, placement: Placement, memory: int,
    rows: int = 1, tier: str = DEVICE, host: int | None = None,
) -> int:  # fmt: skip
    """The most tokens a prompt with its answer may have in `memory` bytes a GPU and `host` bytes
    beside them (None: as many as it takes); 0: none fits."""

    def fits(tokens: int) -> bool:
        plan = plan_memory(shape, method, tokens, placement, rows, tier)
        return plan.taken(placement) <= memory and (host is None or plan.host <= host)

    if not fits(1):
        return 0
    low, high = 1, 2
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def prompt_forward(
    shape: ModelShape, method: Method, tokens: int, placement: Placement, memory: int,
    rows: int = 1, tier: str = DEVICE,
) -> int:  # fmt: skip
    """Tokens of each of `rows` prompts that a forward carries with `memory` bytes a GPU: as many as
    the session takes when the cache of `tokens` tokens is there."""
    method = _on(shape, method)
    least = forward_tokens(method, tokens)
    if not placement.on_gpu or not isinstance(method, ViewMethod):
        return least
    plan = plan_memory(shape, method, tokens, placement, rows, tier)
    values = _token_values(shape, placement)
    free = max(0, memory - plan.weights - plan.cache)
    most = forward_size(method.chunk_size, rows, values * placement.itemsize, free)
    return min(tokens, max(least, most))


def kept_values(method: Method) -> tuple[int, int | None]:
    """First tokens of a row whose values stay on the device in every tier, and how many are brought
    there for a view (None: all)."""
    if not isinstance(method, ViewMethod):
        return 0, method.budget
    return method.first_tokens, method.fetched_keys


def _on(shape: ModelShape, method: Method) -> Method:
    """With the settings that follow from the model's trained window, where the config says it."""
    return method if shape.window is None else method.on(shape.window)


def _chosen(method: Method) -> int | None:
    """Keys of a view that are neither its first nor its last, at most; None where none says."""
    spans = kernel_settings(method)
    return None if spans is None else int(spans["max_spans"]) * int(spans["span_size"])


def _token_values(shape: ModelShape, placement: Placement) -> int:
    """Values that a forward holds on a GPU for every token it carries."""
    parts = placement.tensor_parallel
    wide = (shape.heads + 2 * shape.kv_heads) // parts * shape.head_dim
    return token_values(shape.hidden, shape.intermediate // parts, wide)


def _workspace(
    shape: ModelShape, method: Method, tokens: int, placement: Placement, rows: int
) -> int:
    size, parts = placement.itemsize, placement.tensor_parallel
    chunk = forward_tokens(method, tokens) * rows
    heads = shape.heads // parts
    view = min(method.budget or tokens, tokens)
    mask = 0 if placement.on_gpu else chunk * (view + view // 4)
    views = _view_bytes(shape, method, tokens, placement, chunk)
    logits = rows * shape.vocabulary * _LOGIT_BYTES
    libraries = _LIBRARIES if placement.on_gpu else 0
    scores = rows * score_bytes(method, forward_tokens(method, tokens), heads, size)
    values = chunk * _token_values(shape, placement) + mask
    return libraries + values * size + views + logits + scores


def _view_bytes(
    shape: ModelShape, method: Method, tokens: int, placement: Placement, queries: int
) -> int:
    """A view gathered, and the keys that so many queries name."""
    parts, view = placement.tensor_parallel, min(method.budget or tokens, tokens)
    values = view * shape.kv_heads // parts * shape.head_dim * _VIEW_COPIES
    top_k = int((kernel_settings(method) or {}).get("top_k", 0))
    candidates = top_k * queries * shape.heads // parts * _CANDIDATE_BYTES
    return (values * placement.itemsize if gathers(method) else 0) + candidates
