"""The Triton forms of attend_view, in the interpreter, against the naive form."""

from __future__ import annotations

import pytest
import torch

from reattention_kernels.view import attend_view_naive

pytest.importorskip("triton")
from reattention_kernels.topk_keys.triton import interpreted
from reattention_kernels.view.launch import attend_view_triton

pytestmark = [
    pytest.mark.skipif(not interpreted(), reason="on a GPU test_gpu.py does this"),
    pytest.mark.usefixtures("poisoned_memory"),
]

# batch, heads, KV heads, queries, cache, head_dim, global, local, widest selection
SHAPES = [
    (2, 4, 2, 1, 300, 64, 4, 64, 96),
    (1, 4, 2, 40, 300, 64, 4, 64, 96),
    (1, 7, 1, 1, 500, 128, 0, 32, 64),
    (2, 6, 2, 33, 200, 32, 8, 40, 50),
    (1, 4, 1, 4, 300, 96, 4, 64, 96),
]


def make_view(batch, heads, kv_heads, t, n, d, first, last, width, dtype):
    draw = torch.Generator().manual_seed(n + t)
    query, key, value = (
        torch.randn(batch, h, m, d, generator=draw).to(dtype)
        for h, m in ((heads, t), (kv_heads, n), (kv_heads, n))
    )
    middle = n - first - last
    positions = torch.full((batch, width), -1, dtype=torch.int32)
    count = torch.randint(1, min(width, middle), (batch,), generator=draw).int()
    for b, c in enumerate(count.tolist()):
        positions[b, :c] = torch.randperm(middle, generator=draw)[:c].sort().values.int()
    angle = torch.outer(torch.arange(first + width + last), 100.0 ** (-torch.arange(0, d, 2) / d))
    angle = torch.cat((angle, angle), 1)
    return (query, key, value, positions, count, angle.cos(), angle.sin(), first, last, d**-0.5)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 3e-3)], ids=["f32", "f16"]
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_naive_form(shape, dtype, tolerance):
    view = make_view(*shape, dtype)
    got, want = attend_view_triton(*view).float(), attend_view_naive(*view).float()
    assert (got - want).norm() <= tolerance * want.norm()


def test_an_empty_selection():
    view = list(make_view(*SHAPES[1], torch.float32))
    view[4] = torch.zeros_like(view[4])
    torch.testing.assert_close(attend_view_triton(*view), attend_view_naive(*view))
