"""What a method says of the kernels it will call, so that they are compiled while weights load."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from reattention_eval.methods.base import Method


class CallsKernels(ABC):
    """Inherited by a method whose views are chosen by `reattention_kernels`."""

    @abstractmethod
    def kernel_settings(self) -> dict[str, Any]:
        """The fields of `reattention_kernels.warmup.KernelShape` that are the method's."""

    @abstractmethod
    def spans_of(self, layer: int, layers: int) -> int:
        """Spans that a layer's views keep."""


def kernel_settings(method: Method) -> dict[str, Any] | None:
    """See `CallsKernels.kernel_settings`; None for a method that calls none worth waiting for."""
    return method.kernel_settings() if isinstance(method, CallsKernels) else None


def layer_spans(method: Method, layers: int) -> tuple[int, ...]:
    """Every number of spans that one of a model's layers keeps; none for other methods."""
    if not isinstance(method, CallsKernels):
        return ()
    return tuple(sorted({method.spans_of(layer, layers) for layer in range(layers)}))
