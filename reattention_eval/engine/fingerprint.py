"""Which model this is, told from what it computes with: its weights, its layers, its RoPE."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Tensor, nn

from reattention_eval.attention import Hook

SAMPLES = 64  # values of each weight: a training step changes all of them


def model_fingerprint(model: nn.Module, hook: Hook) -> str:
    """sha256 over the names and shapes of all weights, SAMPLES values spread over each, the sliding
    windows of the layers and their RoPE. The same wherever the checkpoint lies, on every device,
    in one dtype."""
    total = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        total.update(f"{name}{list(weight.shape)}".encode())
        total.update(_samples(weight.detach()))
    total.update(json.dumps(hook.describe_layers()).encode())
    return total.hexdigest()


def _samples(weight: Tensor) -> bytes:
    if weight.is_meta:  # accelerate brings it when it is used
        return b""
    flat = weight.reshape(-1)
    taken = flat[:: max(1, flat.numel() // SAMPLES)].contiguous().cpu()
    return taken.view(torch.uint8).numpy().tobytes()
