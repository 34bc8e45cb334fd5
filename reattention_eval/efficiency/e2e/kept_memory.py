"""Host memory that outlives a session, as device memory does in PyTorch's allocator."""

from __future__ import annotations

from reattention_eval.cache.host_memory import HostMemory
from reattention_eval.engine import Session
from reattention_eval.engine.hooked import HookedSession


class KeptHostMemory(HostMemory):
    """What one prompt's cache has pinned serves the next prompt's, in another session too: pinning
    is paid once, as by the prompts of one session."""

    def serve(self, session: Session) -> None:
        """From its first prompt on, which has not come yet."""
        if isinstance(session, HookedSession) and session._hook.tier is not None:
            session._hook.tier.memory = self

    def give_back(self) -> None:
        """Nothing: the next session takes it."""
