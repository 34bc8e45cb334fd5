"""How many tokens of a prompt a forward carries on this model, with the memory there is now."""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any

import torch
from torch import nn

from reattention_eval.engine.head_shape import head_shape
from reattention_eval.machine_memory import free_bytes
from reattention_eval.methods.forward_size import forward_size, token_values
from reattention_eval.parallel import ranks_of


class ForwardSize:
    """Asked when the cache's storage is there, so that what is free is free for a forward.

    On CUDA from the free memory and the model's shape; elsewhere a chunk, since a CPU gains nothing
    from more. Processes that share a model take what the fullest of their GPUs can.

    Args:
        model: whose forwards they are.
        chunk: tokens that the method answers together.
    """

    def __init__(self, model: nn.Module, chunk: int) -> None:
        self._model, self._chunk, self._ranks = model, chunk, ranks_of(model)
        self._devices = {p.device for p in model.parameters() if p.is_cuda}
        self._shrunk = False

    def choose(self, rows: int) -> int:
        """Tokens of each of `rows` rows."""
        if not self._devices or self._shrunk:
            return self._chunk
        free = min(free_bytes(device) or 0 for device in self._devices)
        tokens = forward_size(self._chunk, rows, self._token_bytes, free)
        if self._ranks is not None and self._ranks.size > 1:
            own = torch.tensor([tokens], device=self._ranks.device)
            tokens = int(self._ranks.join(own, 0).min())
        return tokens

    @cached_property
    def _token_bytes(self) -> int:
        return _token_bytes(self._model)

    @property
    def can_shrink(self) -> bool:
        """Whether a forward that ran out of memory may be tried with fewer tokens: not among
        processes that may be waiting inside it."""
        return self._ranks is None or self._ranks.size == 1

    def shrink(self) -> int:
        """A forward ran out of memory: from now on a chunk at a time."""
        torch.cuda.empty_cache()
        self._shrunk = True
        warnings.warn(
            "too little GPU memory for several chunks a forward: prompts are read chunk by chunk "
            f"({self._chunk} tokens) from here on, with the same answers but slower.",
            RuntimeWarning,
            stacklevel=2,
        )
        return self._chunk


def _token_bytes(model: Any) -> int:
    """Bytes that a forward holds for every token it carries, in this process."""
    config, ranks = model.config.get_text_config(), ranks_of(model)
    hidden = int(model.get_input_embeddings().weight.shape[1])
    head = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
    widest = max((max(m.in_features, m.out_features) for m in linear), default=hidden)
    experts = getattr(config, "num_experts_per_tok", None) or 1
    shape = head_shape(config, hidden)
    # where the config does not say: as many keys as queries
    wide = 3 * hidden if shape is None else (shape.heads + 2 * shape.kv_heads) * shape.dim
    wide //= 1 if ranks is None else ranks.size
    values = token_values(hidden, widest * experts, wide)
    return values * next(model.parameters()).element_size()
