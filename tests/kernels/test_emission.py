"""The inline PTX that emits blocks, against a plain loop."""

from __future__ import annotations

import math
import random

import pytest

from kernels import ptx
from reattention_kernels.topk_keys.insertion import emission_asm

BASE, WANTED = 2**40, 2**41


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("threshold", [-math.inf, -0.5, 0.0, 1.5, math.inf, math.nan])
def test_emits_what_reaches_the_threshold(parts, threshold):
    room = 20
    code, constraints = emission_asm(parts, room)
    assert constraints.split(",") == ["=&r", "r"] + ["f"] * (parts + 1) + ["l", "l", "r"]
    draw = random.Random(parts)
    count, memory, want = 0, {}, []
    for tile in range(40):
        first = tile * 4 * parts + 2  # lane 2
        bounds = [draw.choice([-2.0, -0.5, 0.0, -0.0, 1.0, 1.5, 3.0]) for _ in range(parts)]
        want += [first + 4 * i for i, bound in enumerate(bounds) if not bound < threshold]
        count = ptx.run(code, [None, count, *bounds, threshold, BASE, WANTED, first], memory)[0]
        assert count == len(want)
    kept = {BASE + 2 * i: ident for i, ident in enumerate(want[:room])}
    counted = {WANTED + 4 * ident: 1 for ident in want[:room]}
    assert memory == kept | counted  # and nothing behind the segment
