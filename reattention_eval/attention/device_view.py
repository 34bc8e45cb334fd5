"""Attention over a selection without waiting for the host: kernels gather, rotate and attend."""

from __future__ import annotations

import torch
from torch import Tensor

from reattention_eval.attention.attend import FLASH_DTYPES
from reattention_eval.attention.policy import Selection
from reattention_eval.attention.rope import ViewRope
from reattention_eval.cache import RowCache
from reattention_kernels.backend import use_triton
from reattention_kernels.view import attend_view


class DeviceView:
    """Answers selections on CUDA and counts the keys attended where they are known."""

    def __init__(self) -> None:
        self._counts: dict[torch.device, Tensor] = {}
        self._fixed = 0

    @property
    def view_tokens(self) -> int:
        """Keys attended since `reset_counter`; waits for the device."""
        return self._fixed + sum(int(count) for count in self._counts.values())

    def reset_counter(self) -> None:
        self._counts.clear()
        self._fixed = 0

    def attend(
        self, rope: ViewRope, view: Selection, row: RowCache, query: Tensor, scale: float
    ) -> Tensor | None:
        """query [H, T, D] -> [H, T, D]; None where the kernels do not take the call."""
        if query.dtype not in FLASH_DTYPES or not use_triton(query):
            return None
        fixed = view.global_size + view.local_size
        tables = rope.device_tables(fixed + view.spans.shape[1], query)
        if tables is None:
            return None
        self._fixed += fixed
        count = self._counts.setdefault(query.device, query.new_zeros(1, dtype=torch.int64))
        count.add_(view.count)
        with torch.cuda.device_of(query):
            return attend_view(
                query[None],
                row.key[None],
                row.value[None],
                view.spans,
                view.count,
                *tables,
                view.global_size,
                view.local_size,
                scale,
            )[0]
