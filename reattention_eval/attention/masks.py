"""Which keys a layer lets its queries see, read from the mask that the model made."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from reattention_eval.attention.recording import Call

FAR = 1 << 20  # a position behind every window in use


class UnknownMask(Exception):
    """The mask is neither causal nor a sliding window; the text says what was found."""


def seen_window(call: Call) -> int | None:
    """Tokens that a query of this layer sees, itself included; None for all before it.

    Raises:
        UnknownMask: it sees anything else, or the model adds values to the scores.
    """
    told = call.extras.get("sliding_window")
    causal = call.extras.get("is_causal")
    if call.mask is None:
        if causal is False or (causal is None and getattr(call.module, "is_causal", True) is False):
            raise UnknownMask("attends in both directions")
        return told
    if call.foreign:
        raise UnknownMask("makes a mask of its own")
    if call.allows is None:
        window = told
    else:
        window = _window_of(call.allows, call.mask.device)
        if told is not None and window is not None and told != window:
            raise UnknownMask(f"masks a window of {window} tokens and names one of {told}")
    _compare(call.mask, window)
    return window


@lru_cache(maxsize=8)  # many layers share a rule
def _window_of(rule: Callable[..., Tensor], device: torch.device) -> int | None:
    """From the rule of the mask, asked at positions far beyond the recorded ones."""
    zero = torch.zeros((), dtype=torch.int64, device=device)

    def allowed(query: int, keys: Tensor) -> Tensor:
        at = torch.full_like(keys, query)
        return torch.as_tensor(rule(zero, zero, at, keys)).expand(keys.shape)

    try:
        keys = torch.arange(FAR + 3, device=zero.device)
        counts = []
        for query in (FAR, FAR + 1):
            seen = allowed(query, keys)
            count = int(seen.sum())
            if bool(seen[query + 1 :].any()) or not bool(seen[query + 1 - count : query + 1].all()):
                raise UnknownMask("lets a query see other keys than the last ones before it")
            counts.append(count)
    except (RuntimeError, IndexError, TypeError) as error:
        raise UnknownMask(f"masks by a rule that cannot be asked ({error!r:.80})") from error
    if counts == [FAR + 1, FAR + 2]:
        return None
    if counts[0] == counts[1]:
        return counts[0]
    raise UnknownMask("attends within chunks of fixed places")


def _compare(mask: Tensor, window: int | None) -> None:
    """The mask itself [1, 1 or H, T, N >= T]: bool, or 0 and the most negative number."""
    t = mask.shape[-2]
    mask = mask[..., :t]
    place = torch.arange(t, device=mask.device)
    distance = place[:, None] - place
    expected = (distance >= 0) & (distance < (window or t))
    if mask.dtype == torch.bool:
        allowed = mask
    else:
        allowed = mask == 0
        if not bool((allowed | (mask <= torch.finfo(mask.dtype).min / 4)).all()):
            raise UnknownMask("adds values of its own to the attention scores")
    if not torch.equal(allowed, expected.expand(allowed.shape)):
        raise UnknownMask("masks its keys by a rule of its own")
