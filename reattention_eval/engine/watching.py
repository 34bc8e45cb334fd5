"""What a session's method chooses, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from reattention_eval.attention import Selection, View
from reattention_eval.engine.hooked import HookedSession
from reattention_eval.engine.session import Session
from reattention_eval.errors import ConfigError


@contextmanager
def watched_views(session: Session) -> Iterator[dict[int, Tensor]]:
    """Layer -> positions, ascending int64 [n] on the host, of the last view made inside the block.

    Layers that answered from the whole cache are missing. For single decode steps: each view waits
    for the device.

    Raises:
        ConfigError: the session's method chooses no views.
    """
    if not isinstance(session, HookedSession):
        raise ConfigError(
            f"{session.method.name} chooses no views; watch a method as reattention or "
            "streaming_llm."
        )
    answers = session._hook.answers
    seen: dict[int, Tensor] = {}
    policy = answers.policy
    watching: Any = _Watching(policy, seen)
    answers.policy = watching
    try:
        yield seen
    finally:
        answers.policy = policy


class _Watching:
    """A policy that also writes down what it answers."""

    def __init__(self, policy: Any, seen: dict[int, Tensor]) -> None:
        self._policy, self._seen = policy, seen
        if hasattr(policy, "views"):
            self.views = self._views

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def view(self, row: Any, query: Tensor) -> Any:
        return self._noted(row, self._policy.view(row, query))

    def _views(self, row: Any, query: Tensor) -> Any:
        return self._noted(row, self._policy.views(row, query))

    def _noted(self, row: Any, view: Any) -> Any:
        if isinstance(view, Selection):
            self._seen[row.layer] = view.positions(row.capacity).cpu()
        elif isinstance(view, View):
            positions = view.positions
            own = positions if positions.ndim == 1 else positions.flatten().unique()
            self._seen[row.layer] = own.cpu()
        return view
