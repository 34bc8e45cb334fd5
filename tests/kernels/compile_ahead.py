"""`compile_ahead` for a Hopper GPU where there is none: a driver that names the target, and nothing
is launched. Prints, as JSON, what was compiled ahead, and what the calls that followed compiled.

Run as a script: the interpreter, which the other tests need, would take the kernels over.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

compiled = []
driver.set_active(
    type("Hopper", (), dict(
        get_current_target=lambda self: GPUTarget("cuda", 90, 32),
        get_current_device=lambda self: 0,
        get_current_stream=lambda self, device: 0,
    ))()
)  # fmt: skip
launch = importlib.import_module("reattention_kernels.topk_keys.triton")
launch.sm_count = lambda index: 132
launch.capability = lambda index: (9, 0)
norm = importlib.import_module("reattention_kernels.norm.triton")
norm.pytorch_adds = lambda device: norm.Adding(neighbours=True, halves=True)
torch.cuda.is_available = lambda: True
torch.cuda.current_device = lambda: 0
torch.cuda.get_device_capability = lambda device=None: (9, 0)
torch.cuda.device = lambda device: contextlib.nullcontext()


def listen(src, metadata, metadata_group, times, cache_hit):
    if not cache_hit:
        compiled.append(src.name)


def calls(heads: int, kv_heads: int) -> None:
    """A prefill in chunks, in groups of chunks, and decode steps, at odd lengths."""
    from reattention_kernels.rotation.triton import rotate_triton
    from reattention_kernels.view import SelectedView
    from reattention_kernels.view.launch import attend_view_triton
    from reattention_kernels.votes.triton import select_positions_triton

    meta = dict(dtype=torch.bfloat16, device="meta")
    for c, t, n in ((1, 512, 4128), (1, 512, 77_777), (1, 2048, 300_001), (16, 512, 999_999),
                    (3, 100, 1_500_000), (1, 1, 5001), (1, 1, 1_048_577)):  # fmt: skip
        query = torch.empty(c * t, heads, 128, **meta).view(c, t, heads, 128).transpose(1, 2)
        cache = torch.empty(1, kv_heads, n + 4137, 128, **meta)
        key = cache[:, :, 32 : 32 + n].expand(c, -1, -1, -1)
        length = torch.empty(c, dtype=torch.int32, device="meta")
        winners = launch.topk_keys_triton(query, key, 4, "exact", length)
        spans, count = select_positions_triton(winners, n, 127, 32, length)
        table = torch.empty(8192, 128, **meta)
        view = SelectedView(spans, count, table, table, 32, 4096, True)
        held = cache.expand(c, -1, -1, -1)
        out = torch.empty(c, t, heads, 128, **meta).transpose(1, 2)
        counted = torch.empty(c, dtype=torch.int64, device="meta")
        attend_view_triton(query, held, held, view, 0.1, length, out, counted)
    for t in (1, 16, 17, 8191):
        norm.rms_norm_triton(torch.empty(1, t, 1536, **meta), torch.empty(1536, **meta), 1e-5)
        table = torch.empty(1_048_576, 128, **meta)[77 : 77 + t]
        for h in (heads, kv_heads):
            rotate_triton(torch.empty(t, h, 128, **meta).transpose(0, 1), table, table)
    slot = torch.empty(1, dtype=torch.int64, device="meta")
    rotate_triton(torch.empty(kv_heads, 1, 128, **meta), table, table, slot)


def calls_of_tiers(kv_heads: int, window: int, block: int) -> None:
    """As `HostValues` and a policy of several sizes and with a memory make them: of each chunk of a
    prompt, of launched decode steps and of those of a graph, at odd lengths."""
    from reattention_kernels.values.naive import HeldValues, SplitValues
    from reattention_kernels.values.triton import fetch_values_triton
    from reattention_kernels.view import SelectedView, ViewValues
    from reattention_kernels.view.launch import attend_view_triton
    from reattention_kernels.votes.triton import select_positions_triton

    meta, ints = dict(dtype=torch.bfloat16, device="meta"), dict(dtype=torch.int32, device="meta")
    heads, longs = 6 * kv_heads, torch.empty(3, dtype=torch.int64, device="meta")
    blocks = [torch.empty(block, kv_heads, 128, **meta) for _ in range(3)]
    held = torch.empty(2, kv_heads, window, 128, **meta)[1]
    table, slots = torch.empty(8192, 128, **meta), torch.empty(77_777, **ints)
    for spans in SIZES:
        width = 32 * spans
        for chunks, t, n in ((4, 512, 99_999), (3, 512, 1_500_000), (1, 1, 70_001)):
            length = torch.empty(chunks, **ints)
            votes = heads * 4 * (t if t > 1 else 4)  # three tokens before it
            weights = torch.empty(chunks, 1, 1, votes, **ints) if t == 1 else None
            winners = torch.empty(chunks, 1, 1, votes, **ints)
            found, count = select_positions_triton(winners, n, spans, 32, length, 0, weights)
            for repeated in (False, True) if t == 1 else (False,):
                shape = (2 if repeated else chunks, width)
                positions, values = (
                    torch.empty(*shape, **ints),
                    torch.empty(*shape, kv_heads, 128, **meta),
                )
                source = SplitValues(held, 32, length if repeated else n, blocks, longs)
                new = (positions, values) if repeated else (positions[-1], values[-1])
                last = HeldValues(*new, new[0], slots, longs, length if repeated else None)
                if chunks > 1:
                    given = source, found[:-1, None], values[:-1], count[:-1], 32
                    fetch_values_triton(*given, last._replace(new_positions=None), 48)
                given = source, found[-1:], new[1], count[-1:], 32, last
                fetch_values_triton(*given, None if repeated else 48)
                query = torch.empty(chunks * t, heads, 128, **meta)
                query = query.view(chunks, t, heads, 128).transpose(1, 2)
                key = torch.empty(1, kv_heads, n + 4137, 128, **meta).expand(chunks, -1, -1, -1)
                window_of_all = held.expand(chunks, -1, -1, -1)
                value = ViewValues(window_of_all, 32, values.transpose(1, 2), repeated)
                view = SelectedView(found, count, table, table, 32, 4096, True)
                counted = torch.empty(chunks, dtype=torch.int64, device="meta")
                attend_view_triton(query, key, value, view, 0.1, length, None, counted)


SIZES = (96, 127, 158)
TIERS = dict(host_values=(16_416, 4096), layer_spans=SIZES, vote_memory=3)


def main(heads: int, kv_heads: int, tiers: bool = False) -> None:
    from reattention_kernels.recording import recorded_launches
    from reattention_kernels.warmup import KernelShape, compile_ahead

    knobs.compilation.listener = listen
    shape = KernelShape(heads, kv_heads, 128, chunk_sizes=(512, 2048), device_length=True,
                        norm_dims=(1536,), **(TIERS if tiers else {}))  # fmt: skip
    work = compile_ahead(shape, workers=2)
    assert work.wait(500)
    ahead = list(compiled)
    with recorded_launches() as launches:
        if tiers:
            calls_of_tiers(kv_heads, *TIERS["host_values"])
        else:
            calls(heads, kv_heads)
    for launch in launches:
        launch.compile()
    report = dict(
        ahead=ahead, later=compiled[len(ahead) :], failures=work.failures, launches=len(launches),
        seconds=work.seconds,
    )  # fmt: skip
    print(json.dumps(report))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), "tiers" in sys.argv)
