"""What a score is, to the last bit: products added in one order, whatever the processor.

A matrix product rounds by where a row lies in its tile, so that equal keys may score differently.
It finds candidates; `pair_scores` decides among them.
"""

from __future__ import annotations

import torch
from torch import Tensor

ODD = 0x5851F42D4C957F2D  # spreads a vector's words over a 64-bit hash


def score_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32, for float64 inputs float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def pair_scores(query: Tensor, key: Tensor) -> Tensor:
    """q.k over the last dimension, in `score_dtype`; both broadcast to [..., D] -> [...].

    The D products are halved again and again: element i takes in element i + ceil(D / 2). Element
    by element nothing is fused or reordered, so the result depends on the two vectors alone.
    """
    dtype = score_dtype(query.dtype)
    terms = query.to(dtype) * key.to(dtype)
    while (size := terms.shape[-1]) > 1:
        half = (size + 1) // 2
        terms[..., : size - half] += terms[..., half:]
        terms = terms[..., :half]
    return terms[..., 0]


def product_margin(query: Tensor, key: Tensor) -> Tensor:
    """How far apart two keys' products may lie although their scores order the other way.

    query [..., R, D], key [..., N, D] -> [..., R]. With u the unit roundoff, a product of length D
    is off by at most D u |q| |k| in whatever order it is added, fused or not, and a score by
    (log2 D + 2) u |q| |k|; inputs below the least normal number may be taken for zero. A key whose
    product lies more than twice the sum of both below the k-th largest product scores less than
    each of those k keys. A quarter more covers what the norms themselves are off by, and terms in
    u^2.
    """
    d = query.shape[-1]
    limits = torch.finfo(query.dtype)
    unit = limits.eps / 2
    largest = torch.linalg.vector_norm(key, dim=-1).amax(-1, keepdim=True)
    rows = torch.linalg.vector_norm(query, dim=-1)
    rounding = (d + d.bit_length() + 2) * unit * rows * largest
    return 2.5 * (rounding + d * limits.tiny * (rows + largest + 1))


def repeats(key: Tensor, spare: int) -> Tensor:
    """bool [N]: keys with at least `spare` equal keys before them.

    Among equal keys the first ones win, so that these can be left out of a decision. Equal keys
    are found by a hash, and compared.
    """
    n, d = key.shape
    size = key.element_size()
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[size]
    words = key.contiguous().view(integers).to(torch.int64)
    mix = torch.arange(1, d + 1, device=key.device) * ODD | 1
    hashes, order = (words * mix).sum(1).sort(stable=True)  # wraps around
    begins = torch.ones(n, dtype=torch.bool, device=key.device)
    begins[1:] = hashes[1:] != hashes[:-1]
    at = torch.arange(n, device=key.device)
    first = at.masked_fill(~begins, 0).cummax(0).values  # of each key's group, in sorted order
    found = torch.zeros(n, dtype=torch.bool, device=key.device)
    if torch.equal(key[order], key[order[first]]):  # else two keys share a hash: leave none out
        found[order] = at - first >= spare
    return found
