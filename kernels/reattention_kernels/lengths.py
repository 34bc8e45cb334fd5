"""How many of a call's keys exist: one number for all entries of a batch, or one for each."""

from __future__ import annotations

import torch
from torch import Tensor


def check_lengths(device_length: Tensor | None, batch: int) -> None:
    """Raises ValueError unless device_length is None, int32 [1] or int32 [batch]."""
    if device_length is None:
        return
    if device_length.dtype != torch.int32 or tuple(device_length.shape) not in ((1,), (batch,)):
        raise ValueError(
            f"device_length is int32 [1] or [{batch}], a number for each entry of the batch; "
            f"found {device_length.dtype} {list(device_length.shape)}."
        )


def entry_lengths(device_length: Tensor, batch: int, less: int = 0) -> list[int]:
    """The lengths as numbers, one for each entry, `less` of each; waits for the device."""
    lengths = [length - less for length in device_length.tolist()]
    return lengths * batch if len(lengths) == 1 else lengths
