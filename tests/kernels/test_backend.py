"""Where no kernel takes a call, it is answered all the same, and that is said once."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import torch

from reattention_kernels import backend
from reattention_kernels.topk_keys import triton_refusal


def test_said_once(monkeypatch):
    monkeypatch.setattr(backend, "find_triton", lambda: "found")
    on_gpu = SimpleNamespace(is_cuda=True)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            assert not backend.use_triton(on_gpu, "head_dim 7 is odd")
        assert backend.use_triton(on_gpu)
        assert not backend.use_triton(SimpleNamespace(is_cuda=False), "never said on a CPU")
    assert [str(w.message) for w in said] == [
        "a step runs in its slower PyTorch form: head_dim 7 is odd."
    ]


def test_triton_absent(monkeypatch):
    monkeypatch.setattr(backend, "find_triton", lambda: None)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert not backend.use_triton(SimpleNamespace(is_cuda=True))
    assert "pip install triton" in str(said[0].message)


def test_what_the_kernel_does_not_take():
    def query(d, dtype=torch.bfloat16):
        return torch.zeros(1, 1, 1, d, dtype=dtype)

    assert triton_refusal(query(64), 4) is None
    assert "at most 16 keys" in triton_refusal(query(64), 17)
    assert "head_dim 16 to 256, found 8" in triton_refusal(query(8), 4)
    assert "float64" in triton_refusal(query(64, torch.float64), 4)
