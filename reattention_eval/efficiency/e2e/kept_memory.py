"""Host memory that outlives a session, as device memory does in PyTorch's allocator."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from reattention_eval.cache.host_memory import HostMemory
from reattention_eval.engine import Session
from reattention_eval.engine.hooked import HookedSession


class KeptHostMemory(HostMemory):
    """What one prompt's cache has pinned serves the next prompt's, in another session too: pinning
    is paid once, as by the prompts of one session.

    Attributes:
        seconds: of the host, spent on what was taken of the system.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def take(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """See `HostMemory.take`."""
        began, before = time.perf_counter(), self.taken
        try:
            return super().take(shape, dtype, device)
        finally:
            if self.taken > before:
                self.seconds += time.perf_counter() - began

    def serve(self, session: Session) -> None:
        """From its first prompt on, which has not come yet."""
        if isinstance(session, HookedSession) and session._hook.tier is not None:
            session._hook.tier.memory = self

    def give_back(self) -> None:
        """Nothing: the next session takes it."""
