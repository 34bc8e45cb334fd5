"""The inline PTX that keeps a thread's best blocks, against sorting all of them."""

from __future__ import annotations

import random

import pytest

from kernels import ptx

pytest.importorskip("triton")
from reattention_kernels.topk_keys.triton_prefill import insertion_asm

EMPTY = -(2**63)


def unpacked(entry: int) -> tuple[float, int]:
    bits = entry >> 32
    bits ^= (bits >> 31) & 0x7FFFFFFF
    return ptx.to_float(bits), 0x7FFFFFFF - (entry & 0xFFFFFFFF)


def as_float32(value: float) -> float:
    return ptx.to_float(ptx.to_bits(value))


@pytest.mark.parametrize("k", [1, 4, 8, 16])
@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("kind", ["normal", "few values", "negative", "falling", "rising"])
def test_keeps_the_best_lower_id_first(k, parts, kind):
    draw = random.Random(f"{k} {parts} {kind}")
    code, constraints = insertion_asm(k, parts)
    assert constraints.split(",") == ["=&l"] * k + ["l"] * k + ["f"] * parts + ["r"]
    entries = [EMPTY] * k
    seen = []
    for tile in range(60):
        first = tile * 4 * parts + 3  # lane 3
        values = []
        for part in range(parts):
            number = tile * parts + part
            value = {
                "normal": draw.gauss(0, 1),
                "few values": draw.choice([0.0, -0.0, 1.0, -1.0]),
                "negative": -abs(draw.gauss(5, 1)),
                "falling": -float(number),
                "rising": float(number),
            }[kind]
            values.append(as_float32(value))
            seen.append((values[-1], first + 4 * part))
        out = ptx.run(code, [None] * k + entries + values + [first])
        entries = out[:k]
        want = sorted(seen, key=lambda block: (-block[0], block[1]))[:k]
        got = [unpacked(entry) for entry in entries if entry != EMPTY]
        assert [ident for _, ident in got] == [ident for _, ident in want]
        assert [value for value, _ in got] == [value for value, _ in want]
