"""Runs the few PTX instructions of the list insertion, a thread or the lanes of a row at a time.

Triton's interpreter has no inline PTX, and nothing else would test it without a GPU.
"""

from __future__ import annotations

import math
import re
import struct


def to_bits(value: float) -> int:
    return struct.unpack("<i", struct.pack("<f", value))[0]


def to_float(bits: int) -> float:
    return struct.unpack("<f", struct.pack("<i", bits))[0]


def signed(value: int, width: int) -> int:
    value &= (1 << width) - 1
    return value - (1 << width) if value >> (width - 1) else value


def run(
    code: str, operands: list[int | float | None], memory: dict[int, int] | None = None
) -> list[int | float | None]:
    """Execute; operands by number as in the code, floats for .f32, integers elsewhere.

    memory: takes what is stored, by address.
    """
    registers: dict[str, int | float | bool | None] = {
        f"${i}": value for i, value in enumerate(operands)
    }
    lines = [line.strip() for line in code.splitlines()]
    labels = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if line in ("{", "}") or line.startswith(".reg") or line.endswith(":"):
            continue
        if branch := re.fullmatch(r"@(\w+) bra (\w+);", line):
            at = labels[branch[2]] if registers[branch[1]] else at
            continue
        if line.startswith("@"):
            guard, line = line[1:].split(" ", 1)
            if not registers[guard]:
                continue
        name, rest = line.rstrip(";").split(" ", 1)
        words = [word.strip() for word in re.findall(r"\s*(\{[^}]*\}|[^,]+)", rest)]
        target, sources = words[0], words[1:]
        values = [read(registers, word) for word in sources]
        if name.startswith(("st.global.", "red.")):
            assert memory is not None
            place = registers[target.strip("[]")]
            adds = name == "red.relaxed.gpu.global.add.u32"
            assert adds or name in ("st.global.b16", "st.global.b32")
            memory[place] = values[0] + (memory.get(place, 0) if adds else 0)
            continue
        if target.startswith("{"):  # mov.b64 {low, high}, x
            low, high = (word.strip() for word in target[1:-1].split(","))
            registers[low] = signed(values[0], 32)
            registers[high] = signed(values[0] >> 32, 32)
            continue
        registers[target] = compute(name, values)
    return [registers[f"${i}"] for i in range(len(operands))]


def run_lanes(code: str, operands: list[list[float | None]]) -> list[list[float | None]]:
    """Execute code without branches on several lanes in step, which exchange by shfl.bfly."""
    lanes = [{f"${i}": value for i, value in enumerate(own)} for own in operands]
    for line in map(str.strip, code.splitlines()):
        if line in ("{", "}") or line.startswith(".reg"):
            continue
        name, rest = line.rstrip(";").split(" ", 1)
        target, *sources = (word.strip() for word in rest.split(","))
        if name == "shfl.sync.bfly.b32":
            assert sources[2:] == ["31", "-1"]
            values = [lane[sources[0]] for lane in lanes]
            results = [values[i ^ int(sources[1])] for i in range(len(lanes))]
        else:
            results = [compute(name, [read(lane, word) for word in sources]) for lane in lanes]
        for lane, result in zip(lanes, results, strict=True):
            lane[target] = result
    return [[lane[f"${i}"] for i in range(len(operands[0]))] for lane in lanes]


def read(registers, word):
    if word.startswith("{"):
        low, high = (registers[part.strip()] for part in word[1:-1].split(","))
        return signed((high << 32) | (low & 0xFFFFFFFF), 64)
    if word.startswith("0f"):
        return to_float(signed(int(word[2:], 16), 32))
    if word in registers:
        return registers[word]
    return int(word, 0)


def compute(name, values):
    a, *others = values
    b = others[0] if others else None
    if name == "mov.b32":  # between float and bits: to the other one
        return to_bits(a) if isinstance(a, float) else to_float(a)
    if name.startswith("mov"):
        return a
    if name in ("add.f32", "sub.f32"):
        return struct.unpack("<f", struct.pack("<f", a + b if name == "add.f32" else a - b))[0]
    if name in ("max.f32", "min.f32"):
        better = max if name == "max.f32" else min
        return b if math.isnan(a) else a if math.isnan(b) else better(a, b)
    if name == "setp.le.f32":
        return a <= b
    if name in ("setp.lt.f32", "setp.lt.s32"):
        return a < b
    if name == "mad.wide.s32":
        return signed(a * b + others[1], 64)
    if name == "cvt.u16.u32":
        return a & 0xFFFF
    if name == "add.s32":
        return signed(a + b, 32)
    if name == "shr.s32":
        return a >> b
    if name == "and.b32":
        return signed(a & b, 32)
    if name == "xor.b32":
        return signed(a ^ b, 32)
    if name == "sub.s32":
        return signed(a - b, 32)
    if name == "setp.gt.s32":
        return a > b
    if name == "selp.b64":
        return a if others[1] else b
    raise NotImplementedError(name)
