"""An attached model holds one batch: it is one thread's until a call has ended."""

from __future__ import annotations

from threading import Lock, get_ident

from reattention_eval.errors import ConfigError


class OneThread:
    """Entered by one thread at a time, by the same one again inside."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._owner: int | None = None
        self._depth = 0

    def __enter__(self) -> OneThread:
        """Raises ConfigError where another thread is inside."""
        me = get_ident()
        with self._lock:
            if self._owner not in (None, me):
                raise ConfigError(
                    "another thread is using this model under its attached method, which holds one "
                    "batch at a time: put a threading.Lock around each prompt with its answer, or "
                    "give each thread a model of its own."
                )
            self._owner = me
            self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> bool:
        """Whether this thread was inside."""
        with self._lock:
            if self._owner != get_ident():
                return False
            self._depth -= 1
            if not self._depth:
                self._owner = None
            return True
