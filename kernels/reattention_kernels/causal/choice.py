"""Which attention answers a call: what is there, what takes the call, what is chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from reattention_kernels.backend import find_triton
from reattention_kernels.causal.fa3 import attend_fa3, fa3_absent, fa3_takes
from reattention_kernels.causal.sdpa import LowerRightMask, attend_sdpa

Attend = Callable[
    [Tensor, Tensor, Tensor, float, "Tensor | None", Tensor, "LowerRightMask | None"], Tensor
]
HALVES = (torch.float16, torch.bfloat16)
HOPPER = (9, 0)
# the first that is here and takes the call; measured on an H200, docs/kernels.md
ORDER_ON_HOPPER = ("fa3", "triton", "flash-attn", "torch")
ORDER = ("flash-attn", "torch", "triton")


@dataclass(frozen=True)
class Backend:
    """One implementation of `attend_causal`.

    absent: why it does not serve a device and dtype; None where it does.
    takes: whether it takes a query of this shape.
    limits: how it takes `lengths`: not at all, where what lies behind is finite, always.
    """

    attend: Attend
    absent: Callable[[int, torch.dtype], str | None]
    takes: Callable[[Tensor], bool]
    limits: str = "no"


def _triton(*call: object) -> Tensor:
    from reattention_kernels.causal.launch import attend_causal_triton

    return attend_causal_triton(*call)  # type: ignore[arg-type]


def _cudnn(*call: object) -> Tensor:
    from reattention_kernels.causal.cudnn import attend_cudnn

    return attend_cudnn(*call)  # type: ignore[arg-type]


def _flash_attn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    lengths: Tensor | None,
    out: Tensor,
    _mask: object = None,
) -> Tensor:
    from flash_attn import flash_attn_func

    q, k, v = (x.transpose(1, 2) for x in (query, key, value))  # [B, T, H, D]
    found = flash_attn_func(q, k, v, softmax_scale=scale, causal=True)
    return out.copy_(found.transpose(1, 2))


def _no_triton(index: int, dtype: torch.dtype) -> str | None:
    if find_triton() is None:
        return "not installed: pip install triton"
    return None if dtype in HALVES else f"does not take {dtype}"


def _no_cudnn(index: int, dtype: torch.dtype) -> str | None:
    if not torch.backends.cudnn.is_available():
        return "not in this build of torch"
    if torch.cuda.get_device_capability(index) < HOPPER:
        return "fast on Hopper and later GPUs only"
    return _no_triton(index, dtype)  # joins the parts


def _no_flash_attn(index: int, dtype: torch.dtype) -> str | None:
    if _flash_attn_error() is not None:
        return _flash_attn_error()
    return None if dtype in HALVES else f"does not take {dtype}"


@cache
def _flash_attn_error() -> str | None:
    if find_spec("flash_attn") is None:
        return "not installed: pip install flash-attn"
    try:
        from flash_attn import flash_attn_func  # noqa: F401
    except ImportError as error:
        return f"does not load beside torch {torch.__version__}: {error}"
    return None


BACKENDS = {
    "fa3": Backend(attend_fa3, fa3_absent, fa3_takes, "padded"),
    "triton": Backend(_triton, _no_triton, lambda q: q.shape[3] <= 256, "any"),
    "cudnn": Backend(_cudnn, _no_cudnn, lambda q: q.shape[3] % 8 == 0 and q.shape[3] <= 128),
    "flash-attn": Backend(
        _flash_attn, _no_flash_attn, lambda q: q.shape[3] % 8 == 0 and q.shape[3] <= 256
    ),
    "torch": Backend(attend_sdpa, lambda index, dtype: None, lambda q: True, "any"),
}


def backend_name(
    query: Tensor, limited: bool = False, padded: bool = False, asked: str | None = None
) -> str:
    """The name of what answers a query on a GPU; `asked`, or ValueError where that does not.

    limited: with `lengths`; padded: what lies behind them is finite.
    """
    index = query.get_device()
    names = _order(index) if asked is None else (asked,)
    if limited and asked is None:  # PyTorch's attention would wait for the host
        names = (*(name for name in names if name != "torch"), "torch")
    reasons = []
    for name in names:
        reason = _refusal(name, query, index, limited, padded)
        if reason is None:
            return name
        reasons.append(f"{name}: {reason}")
    raise ValueError(f"attend_causal cannot answer by {'; '.join(reasons)}.")


def _refusal(name: str, query: Tensor, index: int, limited: bool, padded: bool) -> str | None:
    backend = BACKENDS.get(name)
    if backend is None:
        return f"unknown, one of {', '.join(BACKENDS)}"
    if limited and backend.limits != "any" and not (padded and backend.limits == "padded"):
        return "takes no lengths" if backend.limits == "no" else "takes padded keys only"
    reason = backend.absent(index, query.dtype)
    if reason is None and not backend.takes(query):
        reason = f"takes no head_dim of {query.shape[3]}"
    return reason


def causal_backends(index: int = 0, dtype: torch.dtype = torch.bfloat16) -> dict[str, str]:
    """Every backend of a CUDA device: "chosen", "here", or why not. `doctor` shows it."""
    states = {}
    for name in _order(index):
        states[name] = BACKENDS[name].absent(index, dtype) or "here"
    chosen = next(name for name, state in states.items() if state == "here")
    states[chosen] = "chosen"
    for name in BACKENDS:
        states.setdefault(name, BACKENDS[name].absent(index, dtype) or "here")
    return states


def view_attention(query: Tensor) -> Attend | None:
    """What answers a chunk over gathered views, zero behind their sizes; None: Triton."""
    if not query.is_cuda or query.dtype not in HALVES:
        return None
    name = backend_name(query, limited=True, padded=True)
    return None if name == "torch" else BACKENDS[name].attend


def attention_of_device(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> str:
    """What answers a chunk's full attention on a device, for records."""
    if device.type != "cuda":
        return "torch"
    states = causal_backends(device.index or 0, dtype)
    return next(name for name, state in states.items() if state == "chosen")


@cache
def _order(index: int) -> tuple[str, ...]:
    return ORDER_ON_HOPPER if torch.cuda.get_device_capability(index) == HOPPER else ORDER
