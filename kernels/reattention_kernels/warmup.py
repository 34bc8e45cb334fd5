"""Kernels compiled before they are needed, for instance while a model's weights load.

`compile_ahead` runs the launching code itself on tensors without memory, and compiles in threads
what it would launch: Triton's passes and ptxas leave the GIL. So nothing about the launches is said
twice, and the call that follows finds its kernels: in memory in the same process, in Triton's cache
directory in any other.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reattention_kernels.backend import find_triton

if TYPE_CHECKING:
    from reattention_kernels.recording import Launch

MOST_WORKERS = 8  # about as many kernels as take long
SHORTEST, LONGEST = 1 << 8, 1 << 22  # keys


@dataclass(frozen=True)
class KernelShape:
    """What the layers of a model and the settings of a method make of the kernels.

    Args:
        heads: query heads of a layer, as one GPU holds them.
        kv_heads: KV heads, likewise.
        head_dim: elements of a head.
        dtype: of queries, keys and RoPE tables.
        chunk_sizes: queries that select together.
        top_k: keys named by a query.
        max_spans: spans of a view.
        layer_spans: the same, of layers that keep another number.
        span_size: keys of a span.
        global_size: first keys of a view.
        local_size: last keys of a view.
        mode: of `topk_keys`.
        device_length: whether calls read on the device how many keys there are; None for both.
        weighted: whether votes have weights.
        vote_memory: tokens before it whose votes a token that votes alone counts too, by weight.
        grid: whether spans lie on a grid.
        per_kv_head: whether each KV head has a view of its own.
        host_values: where values are partly in host memory, tokens of a row whose values are on the
            device, and tokens of a block on the host; None: all on the device.
        norm_dims: values that the model's RMSNorms take together, for instance its hidden size.
    """

    heads: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype = torch.bfloat16
    chunk_sizes: Sequence[int] = (512,)
    top_k: int = 4
    max_spans: int = 127
    layer_spans: Sequence[int] = ()
    span_size: int = 32
    global_size: int = 32
    local_size: int = 4096
    mode: str = "exact"
    device_length: bool | None = None
    weighted: bool = False
    vote_memory: int = 0
    grid: bool = False
    per_kv_head: bool = False
    host_values: tuple[int, int] | None = None
    norm_dims: Sequence[int] = ()


@dataclass
class CompilingAhead:
    """Work that goes on. Wait for it before the first call, lest both compile the same."""

    compiled: list[str] = field(default_factory=list)  # kernels, one for each variant tried
    failures: list[str] = field(default_factory=list)  # whoever calls such a kernel sees the same
    seconds: float = 0.0
    _done: threading.Event = field(default_factory=threading.Event)

    def wait(self, timeout: float | None = None) -> bool:
        """Until all is compiled; False where the timeout (seconds) passed first."""
        return self._done.wait(timeout)


def compile_ahead(
    *shapes: KernelShape, device: int | None = None, workers: int | None = None
) -> CompilingAhead:
    """Start to compile what these shapes need, and return at once.

    Never raises: without CUDA or Triton there is nothing to do, and a kernel that cannot be
    compiled fails again where it is called.

    Args:
        shapes: see `KernelShape`.
        device: index of the GPU, by default the current one.
        workers: threads; by default as many as there are processors but one, at most 8.
    """
    work = CompilingAhead()
    if find_triton() is None or not torch.cuda.is_available():
        work._done.set()
        return work
    device = torch.cuda.current_device() if device is None else device
    workers = workers or max(1, min(MOST_WORKERS, (os.cpu_count() or 1) - 1))
    threading.Thread(target=_compile_all, args=(work, shapes, device, workers), daemon=True).start()
    return work


def _compile_all(
    work: CompilingAhead, shapes: Sequence[KernelShape], device: int, workers: int
) -> None:
    began = time.perf_counter()
    try:
        with torch.cuda.device(device), ThreadPoolExecutor(workers, "compile") as pool:
            groups = _what_is_needed(work, shapes)
            wait([pool.submit(_compile, work, group, device) for group in groups])
    except Exception as error:
        work.failures.append(str(error))
    finally:
        work.seconds = time.perf_counter() - began
        work._done.set()


def _what_is_needed(work: CompilingAhead, shapes: Sequence[KernelShape]) -> list[list[Launch]]:
    from reattention_kernels.recording import grouped, recorded_launches

    with recorded_launches() as launches:
        for shape in shapes:
            for name, case in _cases(shape):
                _attempt(work, name, case)
    return grouped(launches)


def _compile(work: CompilingAhead, group: list[Launch], device: int) -> None:
    with torch.cuda.device(device):
        for launch in group:
            _attempt(work, launch.name, launch.compile)
    work.compiled.append(group[0].name)


def _attempt(work: CompilingAhead, name: str, step: Callable[[], object]) -> None:
    try:
        step()
    except Exception as error:
        work.failures.append(f"{name}: {error}")


def _cases(shape: KernelShape) -> Iterator[tuple[str, Callable[[], object]]]:
    """Calls that launch every kernel and variant; what a prefill needs comes first."""
    for dim in shape.norm_dims:
        yield "norm", partial(_norm, shape, dim)
    yield "rotation", partial(_rotate, shape)
    if _refused(shape):
        return
    limited = (True, False) if shape.device_length is None else (shape.device_length,)
    for t in (*shape.chunk_sizes, 1):
        for on_device in limited:
            n = SHORTEST
            while n <= LONGEST:  # kernels differ by how many parts the keys are cut into
                yield "selection", partial(_select, shape, t, n, on_device)
                n *= 2
            yield "view", partial(_attend, shape, t, on_device)
            if shape.host_values is not None and not shape.per_kv_head:
                for halves in (False, True) if t == 1 else (False,):
                    yield "fetch", partial(_fetch, shape, *shape.host_values, halves)
                    yield "split view", partial(_attend, shape, t, on_device, halves)
            if t == 1:
                yield "whole cache", partial(_attend_whole, shape, on_device)


def _refused(shape: KernelShape) -> bool:
    """Whether the PyTorch forms serve these calls."""
    from reattention_kernels.topk_keys import triton_refusal
    from reattention_kernels.votes import MAX_SPANS

    query = torch.empty(1, 1, 1, shape.head_dim, dtype=shape.dtype, device="meta")
    return triton_refusal(query, shape.top_k) is not None or shape.max_spans > MAX_SPANS


def _inputs(
    shape: KernelShape, t: int, n: int, on_device: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """query [1, H, t, D] as a projection writes it, key [1, Hkv, n, D], n where it is read."""
    like = torch.empty(0, dtype=shape.dtype, device="meta")
    query = like.new_empty(1, t, shape.heads, shape.head_dim).transpose(1, 2)
    key = like.new_empty(1, shape.kv_heads, n, shape.head_dim)
    length = torch.empty(1, dtype=torch.int32, device="meta") if on_device else None
    return query, key, length


def _norm(shape: KernelShape, dim: int) -> None:
    """Of a chunk and of one token; in float32 `attach` compares their sums with PyTorch's."""
    from reattention_kernels.norm import norm_refusal
    from reattention_kernels.norm.triton import SETTLED, rms_norm_triton

    for dtype in (shape.dtype, torch.float32):
        x = torch.empty(1, SETTLED, dim, dtype=dtype, device="meta")
        if norm_refusal(x, x[0, 0]) is None:
            rms_norm_triton(x, x[0, 0], 1e-6)
            rms_norm_triton(x[:, :1], x[0, 0], 1e-6)


def _rotate(shape: KernelShape) -> None:
    from reattention_kernels.rotation import rotation_refusal
    from reattention_kernels.rotation.triton import rotate_triton

    query, key, _ = _inputs(shape, 2, 2, False)
    table = torch.empty(2, shape.head_dim, dtype=shape.dtype, device="meta")
    if rotation_refusal(query, table) is None:
        for x in (query[0], key[0]):
            rotate_triton(x, table, table)
            rotate_triton(x, table, table, torch.empty(1, dtype=torch.int64, device="meta"))


def _select(shape: KernelShape, t: int, n: int, on_device: bool) -> None:
    from reattention_kernels.topk_keys.triton import topk_keys_triton
    from reattention_kernels.votes.triton import select_positions_triton

    query, key, length = _inputs(shape, t, n, on_device)
    winners = topk_keys_triton(query, key, shape.top_k, shape.mode, length)
    if shape.per_kv_head:
        winners = winners.view(shape.kv_heads, -1, t, shape.top_k)
    weighted = shape.weighted
    if shape.vote_memory and t == 1:
        winners = winners.new_empty(len(winners), winners[0].numel() * (shape.vote_memory + 1))
        weighted = True
    weights = winners if weighted else None
    n, span, end = (n // shape.span_size, 1, None) if shape.grid else (n, shape.span_size, length)
    for spans in dict.fromkeys((shape.max_spans, *shape.layer_spans)):
        select_positions_triton(winners, n, spans, span, end, weights=weights)


def _attend(shape: KernelShape, t: int, on_device: bool, halves: bool | None = None) -> None:
    """halves: of values that are partly in host memory, whether the call is a graph's."""
    from reattention_kernels.view import SelectedView, ViewValues
    from reattention_kernels.view.launch import attend_view_triton

    fixed, width = shape.global_size + shape.local_size, shape.max_spans * shape.span_size
    query, key, length = _inputs(shape, t, 2 * (fixed + width), on_device)
    counted = None
    if shape.per_kv_head:  # each an entry of the call
        query, key = query[0].unflatten(0, (shape.kv_heads, -1)), key[0][:, None]
    else:
        counted = torch.empty(1, dtype=torch.int64, device="meta")
    positions = torch.empty(len(query), width, dtype=torch.int32, device="meta")
    table = torch.empty(fixed + width, shape.head_dim, dtype=shape.dtype, device="meta")
    count = positions[:, 0]
    view = SelectedView(positions, count, table, table, shape.global_size, shape.local_size, True)
    value: Tensor | ViewValues = key
    if halves is not None and shape.host_values is not None:
        recent = key.new_empty(shape.kv_heads, shape.host_values[0], shape.head_dim)
        chosen = key.new_empty(2 if halves else 1, width, shape.kv_heads, shape.head_dim)
        window = recent.expand(1, -1, -1, -1)
        value = ViewValues(window, shape.global_size, chosen.transpose(1, 2), halves)
    attend_view_triton(query, key, value, view, 1.0, length, counted=counted)


def _fetch(shape: KernelShape, window: int, block: int, repeated: bool) -> None:
    """Values that views need; `repeated`: of one by a graph, else of a forward's chunks, beside
    other work."""
    from reattention_kernels.values.naive import HeldValues, SplitValues
    from reattention_kernels.values.triton import fetch_values_triton

    width, like = (
        shape.max_spans * shape.span_size,
        torch.empty(0, dtype=shape.dtype, device="meta"),
    )
    ints = torch.empty(0, dtype=torch.int32, device="meta")
    longs = ints.new_empty(3, dtype=torch.int64)
    token = shape.kv_heads, shape.head_dim
    length: int | Tensor = ints.new_empty(1) if repeated else 2 * window
    recent = like.new_empty(token[0], window, token[1])
    blocks = [like.new_empty(block, *token)]
    source = SplitValues(recent, shape.global_size, length, blocks, longs)
    halves = (2,) if repeated else ()
    values, positions = like.new_empty(*halves, width, *token), ints.new_empty(*halves, width)
    turn = length if isinstance(length, Tensor) else None
    held = HeldValues(positions, values, positions, ints.new_empty(2 * window), longs, turn)
    if repeated:
        given = source, ints.new_empty(1, width), values, ints.new_empty(1), shape.global_size
        fetch_values_triton(*given, held)
        return
    programs = 48  # any number: those beside other work take no part in PDL
    counts = ints.new_empty(2)
    for count in (counts[:1], counts[1:]):  # the last one's address may be no multiple of 16
        given = source, ints.new_empty(1, width), values, count, shape.global_size
        fetch_values_triton(*given, held, programs)
    others, values = ints.new_empty(2, 1, width), like.new_empty(2, width, *token)
    given = source, others, values, counts, shape.global_size
    fetch_values_triton(*given, held._replace(new_positions=None), programs)


def _attend_whole(shape: KernelShape, on_device: bool) -> None:
    from reattention_kernels.view.launch import attend_whole_triton

    query, key, length = _inputs(shape, 1, SHORTEST, on_device)
    attend_whole_triton(query, key, key, 1.0, length)
