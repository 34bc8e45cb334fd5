"""Which model this is, told from what it computes with: its weights and its layers.

Its RoPE is compared beside this: frequencies are computed anew wherever a model is loaded, and
processors round them differently.
"""

from __future__ import annotations

import hashlib
import json
import math
from itertools import chain

import torch
from torch import Tensor, nn

from reattention_eval.attention import Hook
from reattention_eval.weight_parts import weight_parts

SAMPLES = 64  # values of each weight: a training step changes all of them


def model_fingerprint(model: nn.Module, hook: Hook) -> str:
    """sha256 over the names and shapes of all weights, SAMPLES values spread over each, and the
    kinds of the layers. The same wherever the checkpoint lies, on every device, in one dtype."""
    total = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        total.update(f"{name}{list(weight.shape)}".encode())
        for part in weight_parts(weight):
            total.update(_samples(part.detach()))
    total.update(json.dumps(hook.layer_kinds()).encode())
    return total.hexdigest()


def _samples(weight: Tensor) -> bytes:
    if weight.is_meta:  # accelerate brings it when it is used
        return b""
    flat = weight.reshape(-1)
    taken = flat[:: max(1, flat.numel() // SAMPLES)].contiguous().cpu()
    return taken.view(torch.uint8).numpy().tobytes()


def same_rope(one: list[list[float]], other: list[list[float]]) -> bool:
    """Whether these samples (`Hook.rope_samples`) are equal but for rounding."""
    if [len(part) for part in one] != [len(part) for part in other]:
        return False
    pairs = zip(chain(*one), chain(*other), strict=True)
    return all(math.isclose(x, y, rel_tol=1e-5, abs_tol=1e-9) for x, y in pairs)
