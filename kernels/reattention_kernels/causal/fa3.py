"""FlashAttention-3 (Shah et al., 2024, arXiv 2407.08608), from the package `fa3-fwd` or
`flash-attn-3`."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

PACKAGES = ("flash_attn_3", "fa3_fwd")  # each names its operators after itself
ALIGNMENT = 8  # elements: the copy engine wants addresses and steps of 16 bytes
MAX_HEAD_DIM = 256


@cache
def operators() -> Any:
    """torch.ops of the installed package; a string says why there are none."""
    found = [package for package in PACKAGES if find_spec(package) is not None]
    if not found:
        return 'not installed: pip install "reattention-eval[flash]"'
    try:
        import_module(f"{found[0]}._C")
        return getattr(torch.ops, found[0])
    except Exception as error:
        # built for another PyTorch or CUDA: the linker's error, or that of a registration
        return f"{found[0]} does not load beside torch {torch.__version__}: {error}"


@cache
def fa3_absent(index: int, dtype: torch.dtype) -> str | None:
    """Why the kernels do not serve this device and dtype, found by running them once."""
    if isinstance(operators(), str):
        return str(operators())
    capability = torch.cuda.get_device_capability(index)
    if capability != (9, 0):
        return "needs a Hopper GPU, found compute capability {}.{}".format(*capability)
    tiny = torch.zeros(1, 1, 1, 64, dtype=dtype, device=torch.device("cuda", index))
    try:
        attend_fa3(tiny, tiny, tiny, 1.0, None, torch.empty_like(tiny))
    except RuntimeError as error:
        return f"does not run here: {str(error).splitlines()[0]}"
    return None


def fa3_takes(query: Tensor) -> bool:
    d = query.shape[3]
    return d % ALIGNMENT == 0 and d <= MAX_HEAD_DIM


def attend_fa3(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    lengths: Tensor | None,
    out: Tensor,
    _mask: object = None,
) -> Tensor:
    """Same contract as `attend_causal`; what lies behind `lengths` must be finite.

    One split and unpacked heads, whatever the shape: a query's answer does not depend on how many
    others come with it.
    """
    b = query.shape[0]
    entries = None
    if b > 1 and key.stride(0) == 0 and value.stride(0) == 0:  # one cache for all entries
        key, value = key[0][None], value[0][None]  # of a step that is not 0
        entries = torch.zeros(b, dtype=torch.int32, device=query.device)
    query, key, value = (_aligned(x) for x in (query, key, value))
    target = out if _fits(out) else torch.empty_like(query)
    q, k, v, o = (x.transpose(1, 2) for x in (query, key, value, target))  # [B, T, H, D]
    if lengths is not None:
        lengths = lengths.expand(b).contiguous()
    operators().fwd(
        q, k, v, out=o, seqused_k=lengths, kv_batch_idx=entries, softmax_scale=scale,
        is_causal=True, num_splits=1, pack_gqa=False,
    )  # fmt: skip
    return out if target is out else out.copy_(target)


def _fits(x: Tensor) -> bool:
    steps = all(
        n == 1 or (step > 0 and step % ALIGNMENT == 0)
        for n, step in zip(x.shape[:3], x.stride()[:3], strict=True)
    )
    return steps and x.data_ptr() % 16 == 0


def _aligned(x: Tensor) -> Tensor:
    return x if _fits(x) else x.clone(memory_format=torch.contiguous_format)
