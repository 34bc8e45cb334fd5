"""The Triton forms of topk_keys, in the interpreter, against the naive form."""

from __future__ import annotations

import pytest
import torch
from kernels.triton_cases import KINDS, make_inputs

from reattention_kernels.topk_keys import topk_keys_naive

pytest.importorskip("triton")
from reattention_kernels.topk_keys.triton import (
    Tile,
    choose_splits,
    interpreted,
    topk_keys_triton,
)

pytestmark = pytest.mark.skipif(not interpreted(), reason="on a GPU test_gpu.py does this")

# heads, KV heads, queries, keys, head_dim, k
SHAPES = [
    (4, 2, 5, 200, 64, 4),
    (3, 1, 7, 77, 32, 4),
    (2, 2, 1, 1, 64, 4),
    (7, 1, 3, 300, 128, 1),
    (4, 1, 3, 3, 64, 16),
    (3, 3, 2, 129, 96, 5),
    (1, 1, 1, 64, 256, 2),
]


# every two of shape, mode and kind of keys meet
MODES = ("exact", "block_max")
CASES = [
    (shape, MODES[(i + j) % 2], kind)
    for i, shape in enumerate(SHAPES)
    for j, kind in enumerate(KINDS[:3])
]


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(("shape", "mode", "kind"), CASES, ids=str)
def test_integers_bit_for_bit(shape, mode, kind):
    *sizes, k = shape
    query, key = make_inputs(kind, *sizes, torch.float16)
    assert torch.equal(topk_keys_triton(query, key, k, mode), topk_keys_naive(query, key, k, mode))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_dtype_and_a_batch(dtype):
    query, key = make_inputs("normal", 4, 2, 3, 150, 64, dtype, batch=2)
    # the naive form adds in another order, so near-ties may swap: compare the scores
    winners = topk_keys_triton(query, key, 4).long()
    scores = (query.double().reshape(2, 2, 6, 64) @ key.double().transpose(2, 3)).reshape(
        2, 4, 3, -1
    )
    best = scores.topk(4).values
    torch.testing.assert_close(scores.gather(3, winners), best, rtol=1e-6, atol=0)


def test_splits_over_the_keys_are_merged():
    query, key = make_inputs("repeated", 2, 1, 2, 2500, 32, torch.float32)
    tile = Tile(64, 64, 4, 2)  # 40 tiles: two splits on the interpreter's two slots
    assert choose_splits(1, 40, 2) == 2
    assert torch.equal(topk_keys_triton(query, key, 4, tile=tile), topk_keys_naive(query, key, 4))


def test_no_keys_give_no_winners():
    query, key = make_inputs("integers", 2, 1, 3, 0, 64, torch.float32)
    assert (topk_keys_triton(query, key, 4) == -1).all()


def test_strides_of_any_layout():
    query, key = make_inputs("integers", 4, 2, 3, 90, 64, torch.float32)
    strided = key.permute(0, 2, 1, 3).contiguous().permute(0, 2, 1, 3)  # [B, N, Hkv, D] in memory
    spread = torch.stack((query, query), 4)[..., 0]  # last stride 2
    assert torch.equal(topk_keys_triton(spread, strided, 4), topk_keys_naive(query, key, 4))


def test_negative_scores_and_signed_zeros():
    query, key = make_inputs("integers", 1, 1, 4, 100, 32, torch.float32)
    key = -key.abs() * query.abs().amax() - 1
    query = query.abs()
    query[0, 0, 0] = 0.0
    query[0, 0, 1] = -0.0
    assert torch.equal(topk_keys_triton(query, key, 4), topk_keys_naive(query, key, 4))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200))
def test_random_shapes(seed):
    draw = torch.Generator().manual_seed(seed)
    group, kv_heads, t, n, d, k = (
        int(torch.randint(low, high, (1,), generator=draw))
        for low, high in ((1, 8), (1, 4), (1, 9), (1, 700), (16, 140), (1, 17))
    )
    kind = KINDS[seed % 3]
    query, key = make_inputs(kind, group * kv_heads, kv_heads, t, n, d, torch.float32, seed=seed)
    assert torch.equal(topk_keys_triton(query, key, k), topk_keys_naive(query, key, k))
