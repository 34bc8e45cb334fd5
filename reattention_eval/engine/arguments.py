"""What callers hand to a session, checked before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

from torch import Tensor

from reattention_eval.attention.token_ids import check_ids, on_host
from reattention_eval.errors import ConfigError


def token_rows(input_ids: Any, attention_mask: Any, vocabulary: int) -> list[list[int]]:
    """Token ids of every row of [B, T] without its left padding.

    Raises:
        ConfigError: no tensor of known token ids, no tokens, a mask that is not left padding.
    """
    input_ids, attention_mask = on_host(input_ids, attention_mask)
    if attention_mask is None:
        return check_ids(input_ids, vocabulary).tolist()
    if not isinstance(attention_mask, Tensor):
        raise ConfigError(
            f"attention_mask must be a tensor [batch, tokens], 1 for real tokens; found "
            f"{type(attention_mask).__name__}."
        )
    mask = attention_mask.bool()
    shape = getattr(input_ids, "shape", None)
    check_ids(input_ids, vocabulary, mask if shape == mask.shape else None)
    if mask.shape != input_ids.shape:
        raise ConfigError(
            f"attention_mask {list(mask.shape)} must have the shape of input_ids "
            f"{list(input_ids.shape)}."
        )
    counts = mask.sum(1).tolist()
    width = mask.shape[1]
    for row, count in enumerate(counts):
        if count == 0 or not bool(mask[row, width - count :].all()):
            raise ConfigError(
                f"row {row} of the batch is empty or not padded on the left; tokenise with "
                'padding_side="left".'
            )
    return [ids[width - count :] for ids, count in zip(input_ids.tolist(), counts, strict=True)]


def document_end(document_tokens: Any, rows: list[list[int]]) -> int | None:
    """How many tokens of a single prompt stand before its question; None where it is not said."""
    if document_tokens is None:
        return None
    if len(rows) != 1:
        raise ConfigError(f"document_tokens is of a single prompt; found {len(rows)} of them.")
    found = whole_number(document_tokens, "document_tokens", 0)
    if found > len(rows[0]):
        raise ConfigError(f"document_tokens are {found}, of a prompt of {len(rows[0])} tokens.")
    return found


def next_tokens(token_ids: Any, rows: int, vocabulary: int) -> list[int]:
    """One token id for each of `rows` rows, from [rows, 1]."""
    shape = list(getattr(token_ids, "shape", []))
    if isinstance(token_ids, Tensor) and shape != [rows, 1]:
        raise ConfigError(
            f"decode takes one token for each of the {rows} prefilled rows, [{rows}, 1]; found "
            f"{shape}."
        )
    (token_ids,) = on_host(token_ids)
    return check_ids(token_ids, vocabulary, name="token_ids").flatten().tolist()


def token_list(ids: Any, name: str, vocabulary: int | None = None) -> list[int]:
    """A sequence of token ids as a list; known to the model where its vocabulary is given."""
    if isinstance(ids, Tensor):
        ids = ids.tolist() if ids.ndim == 1 else None
    if not isinstance(ids, Iterable) or isinstance(ids, (str, bytes)):
        raise ConfigError(f"{name} must be a flat sequence of token ids, as [5, 17].")
    found = list(ids)
    for token in found:
        whole_number(token, f"a token of {name}")
        if vocabulary is not None and not 0 <= token < vocabulary:
            raise ConfigError(
                f"{name} holds {token}: the model knows the ids 0 to {vocabulary - 1}. Use the "
                "checkpoint's own tokenizer."
            )
    return [int(token) for token in found]


def whole_number(value: Any, name: str, least: int | None = None) -> int:
    """`value` if it is an integer, at least `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ConfigError(f"{name} must be a whole number, found {value!r}.")
    if least is not None and value < least:
        raise ConfigError(f"{name} must be at least {least}, found {value}.")
    return int(value)


def real_number(value: Any, name: str) -> float:
    """`value` if it is a finite number."""
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise ConfigError(f"{name} must be a finite number, found {value!r}.")
    return float(value)
