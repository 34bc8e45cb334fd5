"""Token ids and logits, checked: an id out of the vocabulary is an assert on a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from reattention_eval.errors import ConfigError, NonFiniteLogitsError

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def vocabulary(model: nn.Module) -> int:
    """Rows of the model's embedding: the ids below it can be read."""
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    return int(getattr(embedding, "num_embeddings", 0) or model.config.vocab_size)  # type: ignore


def check_ids(ids: Any, size: int, real: Tensor | None = None, name: str = "input_ids") -> Tensor:
    """`ids` [B, T] if they are token ids below `size`; waits for the device that they are on.

    real: bool [B, T], only these are looked at (padding may be anything that the model is not
    shown).

    Raises:
        ConfigError: no tensor of whole numbers [batch, tokens], no tokens, an unknown id.
    """
    if not isinstance(ids, Tensor):
        inside = f"; pass its {name!r}" if hasattr(ids, "keys") else "; torch.tensor makes one"
        raise ConfigError(
            f"{name} must be a tensor of token ids [batch, tokens]; found "
            f"{type(ids).__name__}{inside}."
        )
    if ids.dtype not in INTEGERS:
        raise ConfigError(
            f"{name} must hold whole numbers, token ids; found {ids.dtype}. Tokenise the text, and "
            "do not convert the ids."
        )
    if ids.ndim != 2 or ids.numel() == 0:
        raise ConfigError(
            f"a prompt needs at least one token, {name} [batch, tokens]; found shape "
            f"{list(ids.shape)}."
        )
    ids = ids.long()  # a small integer type does not compare with a large vocabulary
    known = (ids >= 0) & (ids < size)
    if real is not None:
        known |= ~real.to(known.device)
    if not bool(known.all()):
        row, place = (~known).nonzero()[0].tolist()
        raise ConfigError(
            f"{name} holds {int(ids[row, place])} in row {row}, token {place}: the model knows the "
            f"ids 0 to {size - 1}. Use the checkpoint's own tokenizer."
        )
    return ids


def on_host(*tensors: Any) -> list[Any]:
    """Copies in the host's memory of tensors of whole numbers that lie on a device: one transfer
    and one wait for all of them. Whatever else is given stays as it is."""
    found = list(tensors)
    away = [
        i for i, x in enumerate(tensors)
        if isinstance(x, Tensor) and x.is_cuda and x.dtype in (*INTEGERS, torch.bool)
    ]  # fmt: skip
    for device in {tensors[i].device for i in away}:
        here = [i for i in away if tensors[i].device == device]
        whole = torch.cat([tensors[i].flatten().long() for i in here]).cpu()
        parts = whole.split([tensors[i].numel() for i in here])
        for i, part in zip(here, parts, strict=True):
            found[i] = part.view(tensors[i].shape)
    return found


def finite(logits: Tensor) -> Tensor:
    """logits [..., vocab] -> bool [...]: all of them numbers; asks the device, does not wait."""
    low, high = logits.aminmax(dim=-1)  # NaN goes through; no copy of the logits is made
    return torch.maximum(high, -low) < torch.inf  # false for NaN


def require_finite(logits: Tensor, of: str) -> None:
    """Raise NonFiniteLogitsError if logits [..., vocab] are not all numbers; waits."""
    if not bool(finite(logits).all()):
        raise non_finite(logits, of)


def non_finite(logits: Tensor, of: str) -> NonFiniteLogitsError:
    """What is said of logits that are not all numbers."""
    nan, infinite = int(logits.isnan().sum()), int(logits.isinf().sum())
    return NonFiniteLogitsError(
        f"the logits {of} hold {nan} NaN and {infinite} infinite values among {logits.numel()}: "
        f"no token and no likelihood can be taken from them. The model computes in {logits.dtype}; "
        "float16 overflows in many models made for bfloat16, so try dtype=bfloat16 or float32; if "
        "that does not help, the checkpoint's weights are damaged: load it afresh."
    )
