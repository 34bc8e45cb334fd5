"""What a configuration asks of the machine that reads it."""

from __future__ import annotations


def gpus_per_task() -> int:
    """1 where there is a GPU, else 0: OpenCompass hides GPUs from tasks that ask for none."""
    import torch

    return 1 if torch.cuda.is_available() else 0
