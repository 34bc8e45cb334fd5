"""Launches that are written down instead of made, so that their kernels can be compiled ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import triton
from torch import Tensor
from triton.runtime.jit import JITFunction

_RECORDING = threading.Lock()


@dataclass(frozen=True)
class Launch:
    """A kernel, what it was called with, and its constants."""

    kernel: Any
    arguments: tuple[Any, ...]
    constants: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.kernel.fn.__name__)

    def compile(self) -> None:
        """As the same launch would, without making it."""
        self.kernel.warmup(*self.arguments, grid=(1,), **self.constants)


@triton.jit
def probe_kernel(n):
    pass


@contextmanager
def recorded_launches() -> Iterator[list[Launch]]:
    """Within, what this thread launches is written down; the other threads' launches are made.

    Raises:
        RuntimeError: this version of Triton launches in another way.
    """
    original = JITFunction.run
    recorder = threading.get_ident()
    launches: list[Launch] = []

    def run(self: Any, *arguments: Any, grid: Any, warmup: bool, **constants: Any) -> Any:
        if warmup or threading.get_ident() != recorder:
            return original(self, *arguments, grid=grid, warmup=warmup, **constants)
        launches.append(Launch(self, arguments, constants))
        return None

    with _RECORDING:
        JITFunction.run = run
        try:
            probe_kernel[(0,)](0)  # no program, should it be launched after all
            if not launches:
                raise RuntimeError("launches cannot be recorded with this version of Triton")
            launches.clear()
            yield launches
        finally:
            JITFunction.run = original


def grouped(launches: Sequence[Launch]) -> list[list[Launch]]:
    """Launches that may be the same kernel to the compiler, in the order of their first ones."""
    groups: dict[Any, list[Launch]] = {}
    for launch in launches:
        kinds = tuple(
            value.dtype if isinstance(value, Tensor) else type(value) for value in launch.arguments
        )
        constants = tuple(sorted((name, str(value)) for name, value in launch.constants.items()))
        groups.setdefault((launch.kernel, kinds, constants), []).append(launch)
    return list(groups.values())
