"""RMSNorm in one kernel: added up as by PyTorch on a GPU, rounded as Llama's module does."""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
import pytest
import torch

from reattention_kernels.norm import norm_refusal, rms_norm, rms_norm_naive

pytest.importorskip("triton")
from reattention_kernels.norm import triton as norm_file
from reattention_kernels.norm.triton import Adding, rms_norm_triton, sum_order
from reattention_kernels.topk_keys.triton import interpreted

in_interpreter = pytest.mark.skipif(not interpreted(), reason="on a GPU the gpu tests do this")

EPS = 1e-5
EARLIER, LATER = Adding(False, False), Adding(True, True)
DTYPES = [torch.float32, torch.float16]  # the interpreter cuts bfloat16 off instead of rounding it


def drawn(*shape, dtype, device="cpu"):
    """Rows of many magnitudes, around the root of eps and far above, and a weight."""
    draw = torch.Generator().manual_seed(sum(shape))
    scale = 10 ** torch.linspace(-4, 2, prod(shape[:-1])).view(*shape[:-1], 1)
    x = (scale * torch.randn(shape, generator=draw)).to(device, dtype)
    return x, torch.randn(shape[-1], generator=draw).to(device, dtype)


def added_as_on_a_gpu(values, lanes, neighbours, groups, halves):
    """ATen/native/cuda/Reduce.cuh on one row, a thread after the other: float32 [D] -> float32."""
    sums = {}
    for group in range(groups):
        for lane in range(lanes):
            four = np.zeros(4, np.float32)
            for start in range(0, len(values), 4 * lanes * groups):
                for i in range(4):  # vt0
                    if neighbours:
                        at = start + 4 * (group * lanes + lane) + i
                    else:
                        at = start + i * lanes * groups + group * lanes + lane
                    if at < len(values):
                        four[i] += values[at]
            sums[group, lane] = ((four[0] + four[1]) + four[2]) + four[3]
    offset = groups // 2
    while offset:  # block_y_reduce
        for group in range(offset):
            for lane in range(lanes):
                sums[group, lane] += sums[group + offset, lane]
        offset //= 2
    row = np.array([sums[0, lane] for lane in range(lanes)], np.float32)
    offset = lanes // 2
    while offset >= 32:  # block_x_reduce, in shared memory
        row[:offset] += row[offset : 2 * offset]
        offset //= 2
    for offset in (16, 8, 4, 2, 1) if halves else (1, 2, 4, 8, 16):  # WARP_SHFL_DOWN
        row[: 32 - offset] += row[offset:32]
    return row[0]


def normed(x, weight, order):
    """The module's steps on the CPU, but for the sum."""
    element = x.float().numpy()
    made = []
    for row in element:
        total = added_as_on_a_gpu(row * row, *order)
        variance = total * np.float32(1 / len(row))
        made.append(row * (np.float32(1) / np.sqrt(variance + np.float32(EPS))))
    return weight * torch.from_numpy(np.stack(made)).to(x.dtype)


@in_interpreter
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f16"])
@pytest.mark.parametrize(
    ("rows", "dim", "adding", "order"),
    [
        (1, 32, EARLIER, (32, False, 1)),
        (1, 576, EARLIER, (128, True, 1)),
        (1, 4096, EARLIER, (512, True, 1)),
        (3, 100, EARLIER, (64, False, 1)),
        (5, 896, EARLIER, (128, False, 1)),
        (17, 130, EARLIER, (32, False, 1)),
        (18, 1536, EARLIER, (32, False, 1)),
        (16, 8192, EARLIER, (32, False, 16)),
        (1, 128, LATER, (32, True, 1)),
        (1, 4096, LATER, (512, True, 1)),
        (2, 4096, LATER, (256, True, 1)),
        (3, 100, LATER, (64, False, 1)),
        (5, 896, LATER, (128, True, 1)),
        (20, 1536, LATER, (32, True, 1)),
        (17, 8192, LATER, (32, True, 16)),
    ],
    ids=str,
)
def test_added_in_the_order_of_a_gpu(rows, dim, adding, order, dtype):
    order = (*order, adding.halves)
    assert tuple(sum_order(rows, dim, adding)) == order
    x, weight = drawn(rows, dim, dtype=dtype)
    made = rms_norm_triton(x, weight, EPS, adding)
    if rows * dim > 20000:  # the loop over threads takes a while
        x, made = x[[0, 9]], made[[0, 9]]
    assert torch.equal(made, normed(x, weight, order))


def test_one_order_from_sixteen_rows_on():
    for dim in (64, 128, 1536, 4096, 8192):
        for adding in (EARLIER, LATER):
            orders = {sum_order(rows, dim, adding) for rows in (16, 17, 512, 8192, 10**6)}
            assert len(orders) == 1


@pytest.mark.parametrize("adding", [Adding(*both) for both in product((False, True), repeat=2)])
def test_the_way_pytorch_adds_is_seen(adding, monkeypatch):
    """`mean` as the loop over threads has it: what is large hides what is small."""
    zeros = torch.zeros

    def mean(x, dim):
        order = sum_order(len(x), x.shape[1], adding)
        return torch.tensor([float(added_as_on_a_gpu(row, *order)) for row in x[:2].numpy()])

    monkeypatch.setattr(torch, "zeros", lambda *shape, device: zeros(shape))
    monkeypatch.setattr(torch.Tensor, "mean", mean)
    assert norm_file.pytorch_adds.__wrapped__(0) == adding


@in_interpreter
@pytest.mark.usefixtures("poisoned_memory")
def test_any_strides():
    x, weight = drawn(2, 3, 5, 64, dtype=torch.float16)
    want = rms_norm_triton(x.reshape(-1, 64), weight, EPS, LATER).view(x.shape)
    heads = torch.zeros(2, 3, 400, dtype=x.dtype)[..., 8:328].view(2, 3, 5, 64)  # of a fused QKV
    heads.copy_(x)
    wide = torch.zeros(2, 3, 5, 128, dtype=x.dtype)[..., ::2]
    wide.copy_(x)
    for strided in (heads, wide, x.transpose(1, 2).contiguous().transpose(1, 2)):
        made = rms_norm_triton(strided, weight, EPS, LATER)
        assert torch.equal(made, want)
        assert made.stride() == torch.empty_like(strided).stride()
    doubled = weight.repeat_interleave(2)[::2]
    assert torch.equal(rms_norm_triton(x[None], doubled, EPS, LATER)[0], want)  # five dimensions
    alone = x[1, 2, 4]
    assert torch.equal(
        rms_norm_triton(alone, weight, EPS, LATER), rms_norm_naive(alone, weight, EPS)
    )
    assert rms_norm_triton(x[:, :0], weight, EPS, LATER).shape == (2, 0, 5, 64)


def test_on_a_cpu_the_steps_of_the_module():
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        x, weight = drawn(2, 7, 48, dtype=dtype)
        module = LlamaRMSNorm(48, EPS).to(dtype)
        module.weight.data = weight
        assert torch.equal(rms_norm(x, weight, EPS), module(x))


@pytest.mark.parametrize("dim", [31, 40])
def test_refusals(dim):
    x, weight = drawn(2, dim, dtype=torch.float16)
    assert (norm_refusal(x, weight) is None) == (dim == 40)
    assert "with a weight of torch.float32" in norm_refusal(x, weight.float())
    assert "shape" in norm_refusal(x, weight[:-1])
    assert norm_refusal(x.double(), weight.double()) is not None


@pytest.mark.gpu
@pytest.mark.parametrize("dim", [64, 128, 576, 896, 1536, 2048, 4096])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_on_a_gpu_the_bits_of_the_module(dim, dtype):
    for rows in (1, 2, 5, 9, 16, 17, 100, 512):
        x, weight = drawn(rows, dim, dtype=dtype, device="cuda")
        for _ in range(20):
            assert torch.equal(rms_norm(x, weight, EPS), rms_norm_naive(x, weight, EPS)), rows
            x = x.roll(1, 0) * 1.01


@pytest.mark.gpu
def test_on_a_gpu_a_row_has_the_same_bits_among_many():
    x, weight = drawn(9000, 1536, dtype=torch.bfloat16, device="cuda")
    made = rms_norm(x, weight, EPS)
    for first, rows in ((0, 16), (77, 512), (3, 8192)):
        part = slice(first, first + rows)
        assert torch.equal(rms_norm(x[part], weight, EPS), made[part])
    own = rms_norm_naive(x, weight, EPS)
    assert (made != own).float().mean() < 1e-5
    torch.testing.assert_close(made, own, rtol=2**-7, atol=0)
