"""What a session did, counted and timed."""

from __future__ import annotations

import dataclasses
import resource
from typing import Any

import torch
from torch import nn


@dataclasses.dataclass
class SessionStats:
    """Counters since the session began or `reset_stats` was called. Times in seconds.

    A layer-step is one layer answering one chunk (or one new token) of one row.
    """

    layer_steps: int = 0
    layer_steps_selected: int = 0
    mean_view: float = 0.0  # keys attended per layer-step
    decode_view: float = 0.0  # the same, of the steps behind prompts and turns
    keys_kept: float = 0.0  # that a layer holds of a row now, on average
    prefill_tokens: int = 0  # computed, without those reused
    reused_tokens: int = 0  # prompt tokens whose KV was still there
    decode_tokens: int = 0
    forward_tokens: int = 0  # of a row's prompt that one forward of the model carried at most
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    cache_bytes: int = 0  # on devices
    cache_host_bytes: int = 0  # in host memory
    bytes_to_host: int = 0  # transferred, of the cache
    bytes_from_host: int = 0
    values_asked: int = 0  # selected tokens whose values views asked a host cache for, all layers
    values_held: int = 0  # those of them that the layer's view before had brought already
    peak_bytes: int = 0  # CUDA memory allocated at most; on a CPU the process's resident memory
    attention: str = ""  # what computes the attention of chunks and of their views

    @property
    def tokens_per_second(self) -> float:
        """Decode speed; 0.0 before the first decoded token."""
        return self.decode_tokens / self.decode_seconds if self.decode_seconds else 0.0

    @property
    def value_hits(self) -> float:
        """Share of selected tokens whose values had not to be fetched again; 0.0 before any."""
        return self.values_held / self.values_asked if self.values_asked else 0.0

    def as_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "tokens_per_second": self.tokens_per_second}


def input_device(model: nn.Module) -> torch.device:
    """Where token ids have to be."""
    return next(model.get_input_embeddings().parameters()).device  # type: ignore[operator]


def logits_device(model: nn.Module) -> torch.device:
    """Where the model's logits come out."""
    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    weight = getattr(head, "weight", None)
    return input_device(model) if weight is None else weight.device


def peak_bytes(device: torch.device) -> int:
    """See `SessionStats.peak_bytes`."""
    if device.type == "cuda":
        return sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count()))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
