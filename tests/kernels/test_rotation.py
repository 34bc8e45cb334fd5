"""RoPE of whole heads in one kernel: the bits of transformers' own."""

from __future__ import annotations

import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from reattention_kernels.rotation import rotate, rotate_naive, rotation_refusal

pytest.importorskip("triton")
from reattention_kernels.rotation.triton import rotate_triton
from reattention_kernels.topk_keys.triton import interpreted

in_interpreter = pytest.mark.skipif(not interpreted(), reason="on a GPU the gpu test does this")


def tables(rows, dim, dtype, device="cpu"):
    draw = torch.Generator().manual_seed(rows)
    angle = 100 * torch.randn(rows, dim // 2, generator=draw)
    angle = torch.cat((angle, angle), -1)
    return (1.1 * angle.cos()).to(device, dtype), (1.1 * angle.sin()).to(device, dtype)


def laid_out(heads, tokens, dim, dtype, device="cpu"):
    """[H, T, D]: as a projection writes it, heads first, out of a wider row, and every second."""
    x = torch.randn(tokens, heads, dim, generator=torch.Generator().manual_seed(dim)).to(
        device, dtype
    )
    yield x.transpose(0, 1)
    yield x.transpose(0, 1).contiguous()
    wide = torch.zeros(tokens, heads * dim + 64, dtype=dtype, device=device)[:, 24:-40]
    yield wide.copy_(x.flatten(1)).view(tokens, heads, dim).transpose(0, 1)
    every = torch.zeros(tokens, heads, 2 * dim, dtype=dtype, device=device)[..., ::2]
    yield every.copy_(x).transpose(0, 1)


def steps(x):
    return [step for step, places in zip(x.stride(), x.shape, strict=True) if places > 1]


def check(form, dtype, device="cpu"):
    for heads, tokens, dim in ((7, 1, 64), (1, 5, 96), (40, 3, 16), (3, 33, 80)):
        cos, sin = tables(tokens + 9, dim, dtype, device)
        for x in laid_out(heads, tokens, dim, dtype, device):
            for slot in (None, 0, 6):
                rows = slice(slot or 0, (slot or 0) + tokens)
                own, _ = apply_rotary_pos_emb(x[None], x[None], cos[None, rows], sin[None, rows])
                place = None if slot is None else torch.tensor([slot], device=device)
                made = form(x, cos, sin, place)
                assert torch.equal(made, own[0])
                assert x.stride(2) > 1 or steps(made) == steps(own[0])


@in_interpreter
@pytest.mark.usefixtures("poisoned_memory")
def test_the_bits_of_the_models_own():
    check(rotate_triton, torch.float16)  # the interpreter cuts bfloat16 off


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_on_a_cpu(dtype):
    check(rotate, dtype)


def test_nothing_to_rotate():
    cos, sin = tables(4, 64, torch.float16)
    assert rotate_triton(cos.new_zeros(0, 4, 64), cos, sin).shape == (0, 4, 64)
    assert rotate_triton(cos.new_zeros(3, 0, 64), cos, sin).shape == (3, 0, 64)


def test_refusals():
    cos, _ = tables(4, 64, torch.float16)
    x = cos.new_zeros(3, 4, 64)
    assert rotation_refusal(x, cos) is None
    assert rotation_refusal(x, cos.float()) is not None
    assert rotation_refusal(x, cos[:, :32]) is not None
    assert rotation_refusal(x.float(), cos.float()) is not None
    assert rotation_refusal(x[..., :63], cos[:, :63]) is not None


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_on_a_gpu(dtype):
    check(rotate, dtype, "cuda")
    x = torch.randn(3, 5, 64, device="cuda").to(dtype)
    cos, sin = tables(5, 64, dtype, "cuda")
    assert torch.equal(rotate(x, cos, sin), rotate_naive(x, cos, sin))
