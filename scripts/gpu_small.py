"""Every kernel once on small inputs, for compute-sanitizer."""

from __future__ import annotations

import torch

from reattention_kernels import select_positions, topk_keys
from reattention_kernels.view import SelectedView, attend_view, attend_whole


def main() -> None:
    torch.manual_seed(0)
    for t, n in ((1, 700), (40, 2500)):
        query = torch.randn(1, 8, t, 128, device="cuda").bfloat16()
        key, value = torch.randn(2, 1, 2, n, 128, device="cuda").bfloat16()
        middle = key[:, :, 4 : n - 64]
        winners = topk_keys(query, middle, 4)
        positions, count = select_positions(winners, middle.shape[2], 9, 8)
        angle = torch.randn(4 + 9 * 8 + 64, 128, device="cuda")
        view = SelectedView(positions, count, angle.cos(), angle.sin(), 4, 64)
        assert attend_view(query, key, value, view, 0.1).isfinite().all()
        assert attend_whole(query[:, :, -1:], key, value, 0.1).isfinite().all()
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
