"""RMSNorms that run as one kernel while a method is attached, with the bits of their own forward.

Llama's RMSNorm is six kernels of PyTorch, which read and write a forward's hidden states in float32
several times. A module whose forward is that of `LlamaRMSNorm`, instruction by instruction, gets
`rms_norm` of the kernels instead, provided that on its GPU the kernel adds up in PyTorch's order.
"""

from __future__ import annotations

import inspect
from functools import cache
from types import MethodType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from reattention_eval.attention.model_patch import OwnForward
from reattention_kernels.backend import find_triton
from reattention_kernels.norm import norm_refusal, rms_norm

DTYPES = (torch.float16, torch.bfloat16)
PROBES = ((1, 64), (512, 1))  # inputs of so many tokens, so many times


def fused_norms(model: nn.Module) -> list[OwnForward]:
    """What stands in for the forwards of RMSNorms on a GPU, where it gives the same bits."""
    if find_triton() is None:
        return []
    return [
        OwnForward(module, held, MethodType(_fused, module))
        for module in model.modules()
        if (held := _held_forward(module)) is not None and _served(module)
    ]


def _fused(module: Any, hidden_states: Tensor) -> Any:
    weight = module.weight
    if (
        type(hidden_states) is Tensor
        and hidden_states.device == weight.device
        and norm_refusal(hidden_states, weight) is None
        and not (torch.is_grad_enabled() and (hidden_states.requires_grad or weight.requires_grad))
    ):
        return rms_norm(hidden_states, weight, module.variance_epsilon)
    return type(module).forward(module, hidden_states)


def _held_forward(module: nn.Module) -> str | None:
    """Under which name the module's forward can be exchanged; None where it is not Llama's norm, or
    wrapped by what is not accelerate's device hook."""
    own = type(module).forward
    if not inspect.isfunction(own) or not _same_code(own, _llama_forward()):
        return None
    name = "_old_forward" if "_old_forward" in vars(module) else "forward"  # accelerate's
    held = vars(module).get(name)
    return name if held is None or getattr(held, "__func__", None) is own else None


@cache
def _llama_forward() -> Any:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    return LlamaRMSNorm.forward


def _same_code(function: Any, other: Any) -> bool:
    """Whether two functions do the same, whatever their variables are called."""
    one, two = (inspect.unwrap(f) for f in (function, other))
    return (
        one is function  # not decorated
        and one.__closure__ is None
        and one.__defaults__ == two.__defaults__
        and one.__globals__.get("torch") is torch
        and all(
            getattr(one.__code__, part) == getattr(two.__code__, part)
            for part in ("co_code", "co_names", "co_argcount", "co_kwonlyargcount")
        )
        and _constants(one) == _constants(two)
    )


def _constants(function: Any) -> list[Any]:
    return [c for c in function.__code__.co_consts if c != function.__doc__]


def _served(module: nn.Module) -> bool:
    """Whether the kernel gives this module's bits."""
    weight, eps = module.weight, module.variance_epsilon
    if type(weight) is not nn.Parameter or weight.ndim != 1 or not isinstance(eps, float):
        return False  # for instance one sharded over several GPUs
    if not weight.is_cuda or weight.dtype not in DTYPES or norm_refusal(weight, weight):
        return False
    kind: Any = type(module)
    return _proven(kind, weight.shape[0], eps, weight.dtype, weight.device)


@cache
def _proven(kind: Any, dim: int, eps: float, dtype: Any, device: Any) -> bool:
    """Whether the kernel has the bits of this class's forward for one token, which a decode step
    carries, and for 512.

    In float32 too, where every last place of a row's sum shows; 16 bit hide nearly all of them.
    """
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, generator=generator)

    def same(tokens: int, dtype: torch.dtype) -> bool:
        scale = 10 ** (2 * normal(tokens, 1) - 2).clamp(-6, 2)  # eps counts, and does not
        x, weight = (scale * normal(tokens, dim)).to(dtype)[None], normal(dim).to(dtype)
        own = kind.forward(SimpleNamespace(weight=weight, variance_epsilon=eps), x)
        return torch.equal(rms_norm(x, weight, eps), own)

    with torch.no_grad():
        return all(
            same(tokens, kept)
            for kept in (torch.float32, dtype)
            for tokens, times in PROBES
            for _ in range(times)
        )
