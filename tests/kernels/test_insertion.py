"""The inline PTX that keeps a thread's best blocks, against sorting all of them."""

from __future__ import annotations

import math
import random

import pytest

from kernels import ptx
from reattention_kernels.topk_keys.insertion import insertion_asm, shared_kth_asm

EMPTY = -(2**63)
KINDS = ["normal", "few values", "negative", "falling", "rising"]


def unpacked(entry: int) -> tuple[float, int]:
    bits = entry >> 32
    bits ^= (bits >> 31) & 0x7FFFFFFF
    return ptx.to_float(bits), 0x7FFFFFFF - (entry & 0xFFFFFFFF)


def as_float32(value: float) -> float:
    return ptx.to_float(ptx.to_bits(value))


def draw_value(kind: str, draw: random.Random, number: int) -> float:
    value = {
        "normal": draw.gauss(0, 1),
        "few values": draw.choice([0.0, -0.0, 1.0, -1.0]),
        "negative": -abs(draw.gauss(5, 1)),
        "falling": -float(number),
        "rising": float(number),
    }[kind]
    return as_float32(value)


@pytest.mark.parametrize("k", [1, 4, 8, 16])
@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_keeps_the_best_lower_id_first(k, parts, kind):
    draw = random.Random(f"{k} {parts} {kind}")
    code, constraints = insertion_asm(k, parts)
    outputs, inputs = ["=&l"] * k + ["=&f"], ["l"] * k + ["f"] * (1 + parts) + ["r"]
    assert constraints.split(",") == outputs + inputs
    state = [EMPTY] * k + [-math.inf]
    seen = []
    for tile in range(60):
        first = tile * 4 * parts + 3  # lane 3
        values = [draw_value(kind, draw, tile * parts + part) for part in range(parts)]
        seen += [(value, first + 4 * part) for part, value in enumerate(values)]
        out = ptx.run(code, [None] * (k + 1) + state + values + [first])
        state = out[: k + 1]
        want = sorted(seen, key=lambda block: (-block[0], block[1]))[:k]
        got = [unpacked(entry) for entry in state[:k] if entry != EMPTY]
        assert [ident for _, ident in got] == [ident for _, ident in want]
        assert [value for value, _ in got] == [value for value, _ in want]
        assert state[k] == (want[-1][0] if len(want) == k else -math.inf)


def test_what_is_of_no_use_is_left_out():
    code, _ = insertion_asm(2, 1)
    state = [EMPTY, EMPTY, 5.0]
    assert ptx.run(code, [None] * 3 + state + [4.0, 9])[:3] == state
    assert unpacked(ptx.run(code, [None] * 3 + state + [6.0, 9])[0]) == (6.0, 9)


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_the_kth_of_four_lanes(k):
    code, constraints = shared_kth_asm(k)
    assert constraints.split(",") == ["=&f"] + ["f"] * k
    draw = random.Random(k)
    for trial in range(200):
        held = [[draw_value(KINDS[trial % 5], draw, 9 * j) for j in range(k)] for _ in range(4)]
        for lane in held:
            for empty in range(draw.randint(0, k)):
                lane[empty] = -math.inf
        operands = [[None, *sorted(lane, reverse=True)] for lane in held]
        got = {out[0] for out in ptx.run_lanes(code, operands)}
        assert got == {sorted((value for lane in held for value in lane), reverse=True)[k - 1]}
