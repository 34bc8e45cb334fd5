"""The cache object that transformers carries through a forward, and reading a user's forward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from reattention_eval.cache import LayerCache
from reattention_eval.errors import ConfigError

if TYPE_CHECKING:
    from reattention_eval.attention.hook import Hook


class HookCacheLayer(CacheLayerMixin):
    """Hands new keys and values through to the attention function, which stores them."""

    is_sliding = False

    def __init__(self, layer: LayerCache) -> None:
        super().__init__()
        self._layer = layer
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor | None = None) -> None:
        """Storage is made by the first append."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        return key_states, value_states

    def get_seq_length(self) -> int:
        return max(self._layer.lengths, default=0)

    def get_mask_sizes(self, query_length: int | Tensor) -> tuple[int, int]:
        new = query_length if isinstance(query_length, int) else query_length.shape[0]
        return self.get_seq_length() + new, 0

    def get_max_cache_shape(self) -> int:
        return -1

    get_max_length = get_max_cache_shape

    def reset(self) -> None:
        self._layer.lengths = [0] * len(self._layer.lengths)

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise ConfigError(
            "beam search, assisted and contrastive decoding rearrange the cache, and a view "
            "method's cache cannot be rearranged; use greedy decoding or sampling "
            "(num_beams=1, no assistant model)."
        )

    reorder_cache = crop = batch_repeat_interleave = batch_select_indices = _refuse


class HookCache(Cache):
    """transformers' view of a hook's layers."""

    def __init__(self, layers: list[LayerCache]) -> None:
        super().__init__(layers=[HookCacheLayer(layer) for layer in layers])


def plan_forward(hook: Hook, args: Any, kwargs: dict[str, Any]) -> list[tuple[int, int, int]]:
    """Rows, starts and counts of a forward that did not come from the engine (model.generate).

    Raises ConfigError for what a view method cannot follow: masks that are not left padding, or a
    cache that another attention filled.
    """
    inputs = args[0] if args else kwargs.get("input_ids")
    if inputs is None:
        inputs = kwargs["inputs_embeds"]
    rows, tokens = inputs.shape[:2]
    past = kwargs.get("past_key_values")
    if past is not hook.cache:
        if past is not None and past.get_seq_length() > 0:
            raise ConfigError(
                f"the forward brings a {type(past).__name__} with {past.get_seq_length()} tokens "
                "that the attached method has not seen; start from the prompt inside the block."
            )
        hook.start(rows, tokens)
    mask = kwargs.get("attention_mask")
    counts = [tokens] * rows if mask is None else _new_tokens(mask, tokens)
    if len(hook.layers[0].lengths) != rows:
        raise ConfigError(
            f"the cache holds {len(hook.layers[0].lengths)} rows and the forward brings {rows}; "
            "continue with the batch that was prefilled."
        )
    return [(row, tokens - count, count) for row, count in enumerate(counts)]


def _new_tokens(mask: Tensor, tokens: int) -> list[int]:
    """Real tokens among the last `tokens` of each row of a [B, past + tokens] mask."""
    if mask.ndim != 2:
        raise ConfigError(
            f"the attention mask has {mask.ndim} dimensions; a view method takes a [batch, tokens] "
            "mask of left padding, or none."
        )
    new = mask[:, -tokens:].bool()
    counts = new.sum(1)
    left = torch.arange(tokens, device=mask.device) >= tokens - counts[:, None]
    if not torch.equal(new, left):
        raise ConfigError(
            "the attention mask is not left padding (real tokens must be the last of each row); "
            'tokenise with padding_side="left".'
        )
    return counts.tolist()
