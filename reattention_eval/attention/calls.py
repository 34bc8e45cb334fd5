"""Whether what layers hand to their attention is what a view's attention computes."""

from __future__ import annotations

from contextlib import suppress
from itertools import chain
from typing import Any

import torch

from reattention_eval.attention.recording import Recording
from reattention_eval.attention.token_ids import finite
from reattention_eval.errors import ConfigError

# what layers hand to their attention that changes nothing of what it computes
HARMLESS = {
    "cache", "cache_position", "cu_seq_lens_k", "cu_seq_lens_q", "deterministic", "dropout",
    "is_causal", "layer_idx", "output_attentions", "output_hidden_states", "output_router_logits",
    "past_key_values", "position_embeddings", "position_ids", "sliding_window", "target_dtype",
    "use_cache",
}  # fmt: skip
WORDS = {
    "softcap": "soft-capped scores",
    "s_aux": "learned attention sinks",
}


def check_calls(found: Recording, layers: int, name: str) -> None:
    """Raise ConfigError unless each of the layers attends once, and by nothing but what a view's
    attention computes."""
    calls = found.calls
    if found.scored != 1:
        raise ConfigError(
            f"{name} gives logits of {found.scored} tokens where those of the last one were asked "
            "for (logits_to_keep), so a long prompt's would be wrong or not fit into memory."
        )
    if len({id(call.module) for call in calls}) < len(calls):
        raise ConfigError(
            f"{name} calls the same attention more than once in a forward, and a view's cache "
            "belongs to one call; use a decoder with one self-attention per layer."
        )
    if len(calls) != layers:
        raise ConfigError(
            f"{name}: {len(calls)} of its {layers} layers attend through an attention function "
            "that can be replaced (transformers' registry, or PyTorch's), and a method needs every "
            "layer; use a plain decoder, without recurrent or other layers, loaded with "
            'attn_implementation="sdpa".'
        )
    for i, call in enumerate(calls):
        if call.value.shape[-1] != call.query.shape[-1]:
            raise ConfigError(
                f"{name}: layer {i} has values of {call.value.shape[-1]} dimensions and queries of "
                f"{call.query.shape[-1]}; the methods' cache holds both alike."
            )
        strange = {
            key for key, value in call.extras.items()
            if key not in HARMLESS and value is not None and value is not False
        }  # fmt: skip
        if call.extras.get("dropout"):
            raise ConfigError(f"{name} drops out attention; call model.eval() first.")
        if strange or not isinstance(call.scaling, (int, float, type(None))):
            words = ", ".join(WORDS.get(key, key) for key in sorted(strange)) or "a scale per token"
            raise ConfigError(
                f"{name}: layer {i} attends with {words}, which a view's attention does not "
                "compute; use a checkpoint with plain causal softmax attention."
            )


def check_numbers(found: Recording, model: Any, name: str) -> None:
    """Raise ConfigError where a layer attends with NaN or infinity: no comparison of its numbers
    would hold, and no answer follows from them."""
    for i, call in enumerate(found.calls):
        parts = {"queries": call.query, "keys": call.key, "values": call.value}
        wrong = {what: x for what, x in parts.items() if not bool(finite(x).all())}
        if not wrong:
            continue
        nan, infinite = (
            sum(int(asked(x).sum()) for x in wrong.values()) for asked in (torch.isnan, torch.isinf)
        )
        words = " and ".join(", ".join(wrong).rsplit(", ", 1))
        many = sum(x.numel() for x in wrong.values())
        dtype = call.value.dtype
        weight = _damaged(model)
        why = (
            f"its weights show none, so what is computed of them overflows in {dtype}; load it "
            "with another dtype (bfloat16 or float32)"
            if weight is None
            else f"{weight} holds such numbers too: the checkpoint is damaged, or overflowed in "
            f"{dtype}; check its files, or load it with another dtype (bfloat16 or float32)"
        )
        raise ConfigError(
            f"{name}: layer {i} attends with {words} that are no numbers ({nan} NaN, {infinite} "
            f"infinite of {many}); {why}."
        )


def _damaged(model: Any) -> str | None:
    """The first weight or buffer that holds NaN or infinity."""
    for name, x in chain(model.named_parameters(), model.named_buffers()):
        with suppress(RuntimeError, IndexError):  # packed, on the meta device, or empty
            if x.is_floating_point() and not bool(finite(x.detach()).all()):
                return str(name)
    return None
