"""Decode steps as CUDA graphs: the launches of a step cost more than its work at short contexts.

A captured step serves every length up to its capacity: where the new token goes and how many tokens
there are stands on the device. The same positions and the same kernels as without.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from reattention_eval.attention import Hook, RowStep
from reattention_eval.cache import RepeatedStep
from reattention_eval.methods import Method, fixed_view, repeats_until
from reattention_eval.parallel import ranks_of

STEPS_BEFORE_CAPTURE = 3  # a capture takes about as long as three steps
LEAST_CAPACITY = 1024
GRAPHS_KEPT = 4


_Key = tuple[int, int, tuple[int, ...]]  # capacity, how often the storage moved, frequencies


@dataclass
class _Captured:
    step: RepeatedStep
    replay: Callable[[], None]
    logits: Tensor  # [1, 1, vocab], written by replay
    kept: list[Tensor]  # read by the graph


class RepeatedDecode:
    """One row's decode steps; None where a step has to run the ordinary way.

    Processes that share a model decide alike: each decision rests on lengths and on how often the
    storage was made, and a capture counts when all of them could make it.

    Args:
        model: the hooked model.
        hook: its hook, whose row 0 is decoded.
        method: what answers the views.
        device: where token ids go.
    """

    def __init__(self, model: nn.Module, hook: Hook, method: Method, device: torch.device) -> None:
        self._model, self._hook, self._method, self._device = model, hook, method, device
        self._able = device.type == "cuda"
        self._ranks = ranks_of(model)
        self._graphs: dict[_Key, _Captured] = {}
        self._steps: dict[_Key, int] = {}
        self._inputs: tuple[Tensor, Tensor, Tensor] | None = None
        self._pool: Any = None

    def __call__(self, tokens: list[int]) -> Tensor | None:
        """Logits [1, vocab] behind one more token of the only row."""
        length = self._hook.layers[0].lengths[0]
        if not (self._able and self._hook.repeats.possible):
            return None
        capacity = min(self._capacity(length + 1), repeats_until(self._method, length + 1))
        frequencies = self._hook.repeats.frequencies(length + 1)
        if capacity <= length or self._hook.repeats.frequencies(capacity) != frequencies:
            return None  # not the same work; RoPE changes on the way
        # layers differ where making room for a prompt failed half way
        place = capacity, sum(layer.moves for layer in self._hook.layers), frequencies
        captured = self._graphs.get(place)
        if captured is None:
            self._steps[place] = self._steps.get(place, 0) + 1
            if self._steps[place] <= STEPS_BEFORE_CAPTURE:
                return None
        ids, device_length, slot = self._static_inputs()
        ids.fill_(tokens[0])
        device_length.fill_(length + 1)
        slot.fill_(length)
        self._hook.repeats.prepare()
        if captured is None:
            captured = self._try_capture(RepeatedStep(capacity, device_length, slot), ids)
            if captured is None:
                return None
            self._keep(place, captured)
        captured.replay()
        self._hook.repeats.count(captured.step, fixed_view(self._method, length + 1))
        return captured.logits[:, -1].clone()

    def _keep(self, place: _Key, captured: _Captured) -> None:
        """Hold a new graph; those of storage that is gone can serve no more. They go behind its
        capture, since their memory is the pool that it was made in."""
        moves = place[1]
        self._steps = {key: n for key, n in self._steps.items() if key[1] == moves}
        self._graphs = {key: graph for key, graph in self._graphs.items() if key[1] == moves}
        while len(self._graphs) >= GRAPHS_KEPT:
            del self._graphs[next(iter(self._graphs))]
        self._graphs[place] = captured

    def _capacity(self, tokens: int) -> int:
        """Tokens that the graph for a cache of `tokens` may see: at most an eighth more."""
        step = max(LEAST_CAPACITY, 1 << max(0, tokens.bit_length() - 4))
        return min(-(-tokens // step) * step, *(layer.capacity for layer in self._hook.layers))

    def _static_inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        if self._inputs is None:
            ids = torch.zeros(1, 1, dtype=torch.int64, device=self._device)
            length = torch.zeros(1, dtype=torch.int32, device=self._device)
            self._inputs = ids, length, torch.zeros(1, dtype=torch.int64, device=self._device)
        return self._inputs

    @property
    def graphs(self) -> int:
        """Captured and held now."""
        return len(self._graphs)

    def close(self) -> None:
        """Give the graphs back; a process group that they use can end only after them."""
        self._able = False
        self._graphs.clear()

    def _try_capture(self, step: RepeatedStep, ids: Tensor) -> _Captured | None:
        captured, reason = None, "in another process"
        try:
            with self._hook.repeats.repeating(step):
                captured = self._capture(step, lambda: self._forward(ids))
        except RuntimeError as error:
            if self._ranks is not None and isinstance(error, torch.OutOfMemoryError):
                raise  # the others may be waiting in the middle of a forward
            reason = str(error)
        if self._by_all(captured is not None):
            return captured
        self._able = False
        warnings.warn(
            f"decode steps are launched one by one: a CUDA graph could not be made ({reason}).",
            RuntimeWarning,
            stacklevel=2,
        )
        return None

    def _by_all(self, done: bool) -> bool:
        if self._ranks is None:
            return done
        failures = self._ranks.sum(torch.tensor([float(not done)], device=self._device))
        return float(failures) == 0

    def _forward(self, ids: Tensor) -> Tensor:
        with self._hook.drive([RowStep(0, 0, 1)]):
            logits: Tensor = self._model(input_ids=ids, logits_to_keep=1).logits
        return logits

    def _capture(self, step: RepeatedStep, forward: Callable[[], Tensor]) -> _Captured:
        side = _side_stream(self._device)
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            forward()  # compiles kernels, makes what is made once
            with _waiting_forbidden():  # would spoil a capture, and the process's random state
                forward()
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        # other threads, as the one that watches over NCCL, may go on meanwhile
        with torch.cuda.graph(
            graph, pool=self._pool, stream=side, capture_error_mode="thread_local"
        ):
            logits = forward()
        return _Captured(step, graph.replay, logits, self._hook.repeats.tables())


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all captures: cuBLAS keeps 32 MiB for every stream that it has ever worked on."""
    return torch.cuda.Stream(device)


@contextmanager
def _waiting_forbidden() -> Iterator[None]:
    """A wait for the device inside raises RuntimeError."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():  # that it is a prototype
        warnings.filterwarnings("ignore", message="Synchronization debug mode")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
