"""Kernels that read on the device how many keys there are: as if the keys ended there."""

from __future__ import annotations

import pytest
import torch
from kernels.triton_cases import make_inputs

from reattention_kernels.topk_keys import topk_keys, topk_keys_naive

pytest.importorskip("triton")
from reattention_kernels.topk_keys.triton import topk_keys_triton
from reattention_kernels.view import SelectedView, attend_view, attend_view_naive
from reattention_kernels.view.launch import attend_view_triton
from reattention_kernels.votes import select_positions, select_positions_vectorized
from reattention_kernels.votes.triton import select_positions_triton

pytestmark = pytest.mark.usefixtures("poisoned_memory", "few_programs")
CAPACITY = 400


def device_number(n: int) -> torch.Tensor:
    return torch.tensor([n], dtype=torch.int32)


@pytest.mark.parametrize("form", [topk_keys_triton, topk_keys])
@pytest.mark.parametrize("n", [1, 3, 257, 399, 400])
def test_topk(form, n):
    query, key = make_inputs("integers", 6, 2, 1, CAPACITY, 32, torch.float32, 1, "cpu", seed=n)
    want = topk_keys_naive(query, key[:, :, :n], 4)
    assert torch.equal(form(query, key, 4, device_length=device_number(n)), want)
    of_more = form(query, key, 4, device_length=device_number(n + 70), less=70)
    assert torch.equal(of_more, want)


@pytest.mark.parametrize("form", [select_positions_triton, select_positions])
@pytest.mark.parametrize("winners", [24, 600])
def test_votes(form, winners):
    chosen = torch.randint(0, 250, (1, 1, winners // 4, 4), dtype=torch.int32)
    chosen[0, 0, 0] = 249  # its span ends with the positions
    want = select_positions_vectorized(chosen, 250, 7, 16)
    for less in (0, 70):
        got = form(chosen, CAPACITY, 7, 16, device_number(250 + less), less)
        assert torch.equal(got[0], want[0])
        assert torch.equal(got[1], want[1])


@pytest.mark.parametrize("t", [1, 20])
@pytest.mark.parametrize("form", [attend_view_triton, attend_view])
def test_view(form, t):
    query, key = make_inputs("normal", 4, 2, t, CAPACITY, 32, torch.float32, 1, "cpu", seed=1)
    value = torch.randn_like(key)
    positions = torch.full((1, 64), -1, dtype=torch.int32)
    positions[0, :20] = torch.arange(40, 60)
    angle = torch.randn(200, 32)
    view = SelectedView(positions, device_number(20), angle.cos(), angle.sin(), 8, 64)
    want = attend_view_naive(query, key[:, :, :333], value[:, :, :333], view, 0.2)
    counted = torch.tensor([5, 7, 9])
    got = form(query, key, value, view, 0.2, device_number(333), counted=counted[1:2])
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    assert counted.tolist() == [5, 27, 9]


@pytest.mark.parametrize("t", [1, 20])
@pytest.mark.parametrize("form", [attend_view_triton, attend_view])
def test_selected_keys_are_counted(form, t):
    """Each entry's in its place, or all in one."""
    query, key = make_inputs("normal", 4, 2, t, 200, 32, torch.float32, 3, "cpu", seed=1)
    positions = torch.arange(30, dtype=torch.int32).repeat(3, 1)
    counts = torch.tensor([0, 11, 30], dtype=torch.int32)
    angle = torch.randn(200, 32)
    view = SelectedView(positions, counts, angle.cos(), angle.sin(), 8, 64)
    each, together = torch.ones(3, dtype=torch.int64), torch.ones(1, dtype=torch.int64)
    for counted in (each, together):
        form(query, key, key, view, 0.2, counted=counted)
    assert each.tolist() == [1, 12, 31]
    assert together.tolist() == [42]
