"""The cache object that transformers carries through a forward, and reading a user's forward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from reattention_eval.attention.token_ids import check_ids, on_host, vocabulary
from reattention_eval.attention.user_forward import check_begun, check_places, check_seen
from reattention_eval.cache import LayerCache
from reattention_eval.cache_argument import given_cache
from reattention_eval.errors import ConfigError

if TYPE_CHECKING:
    from reattention_eval.attention.hook import Hook


class HookCacheLayer(CacheLayerMixin):
    """Hands new keys and values through to the attention function, which stores them."""

    is_sliding = False
    is_croppable = True  # asked for from transformers 5.24 on; `crop` says what is wrong

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
        raise ConfigError(
            "the cache of an attached method is not emptied by itself; call session.reset(), or "
            "leave past_key_values out, which begins a new prompt."
        )

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise ConfigError(
            "beam search, assisted and contrastive decoding rearrange the cache, and a view "
            "method's cache cannot be rearranged; use greedy decoding or sampling "
            "(num_beams=1, no assistant model)."
        )

    reorder_cache = crop = batch_repeat_interleave = batch_select_indices = _refuse


class HookCache(Cache):
    """transformers' view of a hook's layers.

    unfinished: a forward of the user's own is at work with it, or has failed on its way.
    """

    def __init__(self, layers: list[LayerCache]) -> None:
        super().__init__(layers=[HookCacheLayer(layer) for layer in layers])
        self.unfinished = False


def plan_forward(hook: Hook, given: dict[str, Any]) -> list[tuple[int, int, int]]:
    """Rows, starts and counts of a forward that did not come from the engine (model.generate).

    Raises ConfigError, before anything has changed, for what a view method cannot follow: masks
    that are not left padding, places that do not count on, unknown token ids, or a cache that
    another attention filled.
    """
    inputs, embedded = given.get("input_ids"), given.get("inputs_embeds")
    mask, places = given.get("attention_mask"), given.get("position_ids")
    if inputs is None and not _is_embedded(embedded):
        raise ConfigError(
            "the forward brings no tokens: give input_ids [batch, tokens], at least one."
        )
    shape = tuple(getattr(embedded if inputs is None else inputs, "shape", ()))[:2]
    new = before = None
    if isinstance(mask, Tensor) and mask.ndim == len(shape) == 2:
        new, before = mask[:, -shape[1] :], mask[:, : -shape[1]].bool().sum(1)
    inputs, new, before, places = on_host(inputs, new, before, places)
    if inputs is not None:
        real = None if new is None or new.shape != inputs.shape else new.bool()
        check_ids(inputs, vocabulary(hook.model), real)
    rows, tokens = shape
    goes_on = _goes_on(hook, given)
    held = hook.layers[0].lengths if goes_on else [0] * rows
    if len(held) != rows:
        raise ConfigError(
            f"the cache holds {len(held)} rows and the forward brings {rows}; "
            "continue with the batch that was prefilled."
        )
    counts = [tokens] * rows
    if mask is not None:
        counts = _new_tokens(mask, new, rows, tokens)
        if mask.shape[1] > tokens:
            check_seen(before, held)
    check_begun(counts, held)
    if places is not None:
        check_places(places, counts, held)
    hook.user.carry(counts, held)
    if not goes_on:
        hook.start(rows, tokens)
    return [(row, tokens - count, count) for row, count in enumerate(counts)]


def _goes_on(hook: Hook, given: dict[str, Any]) -> bool:
    """Whether the forward's tokens come behind those that the hook holds."""
    past, first = given_cache(given), given.get("cache_position")
    if past is hook.cache:
        if past.unfinished:
            raise ConfigError(
                "the forward brings a cache whose last forward failed, so that what it holds is "
                "not known; give the whole prompt again."
            )
        return True
    if isinstance(past, HookCache):
        raise ConfigError(
            "the forward brings the cache of an earlier prompt (or a copy of it), and an "
            "attached method holds one batch at a time; give the whole prompt again, or read "
            "its turns with session.extend."
        )
    if past is None:
        return False
    if not isinstance(past, Cache):
        raise ConfigError(
            f"past_key_values is a {type(past).__name__}, no cache; leave it out for a prompt, and "
            "give those of the last output behind it."
        )
    if past.get_seq_length() > 0:
        raise ConfigError(
            f"the forward brings a {type(past).__name__} with {past.get_seq_length()} tokens "
            "that the attached method has not seen; start from the prompt inside the block."
        )
    # generate gives one with its whole prompt, and says so; a loop of one's own fills it
    says = given.get("position_ids") is not None or (first is not None and int(first[0]) == 0)
    if past in hook.handed_in and not says:
        raise ConfigError(
            f"the forward brings a {type(past).__name__} that an earlier one brought, and an "
            "attached method keeps keys and values in a cache of its own: go on with the "
            "past_key_values of the last output."
        )
    hook.handed_in.add(past)
    return False


def _is_embedded(embedded: Any) -> bool:
    return isinstance(embedded, Tensor) and embedded.ndim == 3 and embedded.numel() > 0


def _new_tokens(mask: Any, new: Tensor | None, rows: int, tokens: int) -> list[int]:
    """Real tokens of each row of a [B, past + tokens] mask's last columns `new` [B, tokens]."""
    if new is None:
        found = f"{mask.ndim} dimensions" if isinstance(mask, Tensor) else type(mask).__name__
        raise ConfigError(
            f"the attention mask has {found}; a view method takes a [batch, tokens] mask of left "
            "padding, or none."
        )
    if mask.shape[0] != rows or mask.shape[1] < tokens:
        raise ConfigError(
            f"the attention mask {list(mask.shape)} does not cover the forward's tokens "
            f"[{rows}, {tokens}]."
        )
    new = new.bool()
    counts = new.sum(1)
    left = torch.arange(tokens, device=new.device) >= tokens - counts[:, None]
    if not torch.equal(new, left):
        raise ConfigError(
            "the attention mask is not left padding (real tokens must be the last of each row); "
            'tokenise with padding_side="left".'
        )
    return counts.tolist()
