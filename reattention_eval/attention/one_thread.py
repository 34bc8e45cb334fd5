"""An attached model holds one batch: it is one call's until that has ended."""

from __future__ import annotations

from threading import Lock, get_ident

from reattention_eval.errors import ConfigError


class OneThread:
    """Entered by one call of one thread at a time: not by another thread, and not by a callback."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._owner: int | None = None
        self._depth = 0
        self._in_forward = False

    def __enter__(self) -> OneThread:
        """Raises ConfigError where another thread is inside, or this one."""
        with self._lock:
            self._take()
            self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._give_back()

    def begin_forward(self) -> None:
        """The same around a user's forward; one that Ctrl-C ended has not left, and the next one
        of its thread leaves for both."""
        with self._lock:
            self._take()
            if not self._depth:
                self._depth, self._in_forward = 1, True

    def end_forward(self) -> bool:
        """Whether this thread was inside."""
        with self._lock:
            own = self._owner == get_ident()
            if own and self._in_forward:
                self._in_forward = False
                self._give_back()
            return own

    def _take(self) -> None:
        if self._owner not in (None, get_ident()):
            raise ConfigError(
                "another thread is using this model under its attached method, which holds one "
                "batch at a time: put a threading.Lock around each prompt with its answer, or give "
                "each thread a model of its own."
            )
        self._owner = get_ident()
        if self._depth > self._in_forward:
            raise ConfigError(
                "this call comes from inside another one of the session (a callback: stop, "
                "progress, a streamer, a module's hook), whose cache it would change; make it when "
                "that has ended."
            )

    def _give_back(self) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None
