"""Inline PTX that keeps a thread's best blocks in sorted lists.

A list entry is an int64: the order-preserving int32 of the block's value in the high half,
0x7fffffff - id in the low half, so that larger is better and equal values order by lower id.
"""

from __future__ import annotations

from functools import cache


@cache
def insertion_asm(k: int, parts: int) -> tuple[str, str]:
    """PTX that inserts `parts` blocks (values, ids first, first + 4, ...) into k sorted entries.

    State: k entries, and `least` (float32: a block no better than this is of no use).
    Operands: the state after, the state before, `parts` values (float32), the first id. Almost
    every insertion loses once a few tiles have passed; a real branch makes the losing path two
    instructions.
    """
    state = k + 1
    least, last = f"${k}", k - 1
    value, ident = 2 * state, 2 * state + parts
    lines = [
        "{",
        f".reg .pred p, q<{k}>;",
        ".reg .b32 bits, sign, high, low;",
        ".reg .b64 x, y;",
        ".reg .f32 most, own, v;",
        *(f"mov.b64 ${j}, ${state + j};" for j in range(k)),
        f"mov.f32 {least}, ${state + k};",
        f"mov.f32 most, ${value};",
        *(f"max.f32 most, most, ${value + i};" for i in range(1, parts)),
        f"setp.le.f32 p, most, {least};",
        "@p bra INSERTED;",
    ]
    ordered = ["shr.s32 sign, bits, 31;", "and.b32 sign, sign, 0x7fffffff;"]
    ordered += ["xor.b32 bits, bits, sign;"]
    for i in range(parts):
        if parts > 1:
            lines += [f"setp.le.f32 p, ${value + i}, {least};", f"@p bra LOST{i};"]
        lines += [f"add.f32 v, ${value + i}, 0f00000000;", "mov.b32 bits, v;", *ordered]
        lines += [f"sub.s32 low, {0x7FFFFFFF - 4 * i}, ${ident};", "mov.b64 x, {low, bits};"]
        # equal values: the entry that is there has the lower id and stays ahead
        lines += [
            line
            for j in range(k)
            for line in (f"mov.b64 {{low, high}}, ${j};", f"setp.gt.s32 q{j}, bits, high;")
        ]
        for j in range(k - 1, 0, -1):
            lines += [f"selp.b64 y, ${j - 1}, x, q{j - 1};", f"selp.b64 ${j}, y, ${j}, q{j};"]
        lines.append("selp.b64 $0, x, $0, q0;")
        # an empty last entry reads as NaN, which max leaves out
        lines += [f"mov.b64 {{low, bits}}, ${last};", *ordered, "mov.b32 own, bits;"]
        lines.append(f"max.f32 {least}, {least}, own;")
        if parts > 1:
            lines.append(f"LOST{i}:")
    lines += ["INSERTED:", "}"]
    outputs = ["=&l"] * k + ["=&f"]
    inputs = ["l"] * k + ["f"] * (1 + parts) + ["r"]
    return "\n".join(lines), ",".join(outputs + inputs)


@cache
def shared_kth_asm(k: int) -> tuple[str, str]:
    """PTX: the k-th largest of what the four lanes of a row hold, k a power of two.

    Operands: the result, k float32 in descending order. The best k of two sorted lists are the
    larger of a[j] and b[k - 1 - j]; what they form is bitonic, so one merge sorts it.
    """
    lines = ["{", f".reg .f32 a<{k}>, b<{k}>, t;"]
    lines += [f"mov.f32 a{j}, ${1 + j};" for j in range(k)]
    for step in (1, 2):
        lines += [f"shfl.sync.bfly.b32 b{j}, a{j}, {step}, 31, -1;" for j in range(k)]
        lines += [f"max.f32 a{j}, a{j}, b{k - 1 - j};" for j in range(k)]
        half = k // 2
        while half and step == 1:
            for j in (j for j in range(k) if not j & half):
                lines += [
                    f"max.f32 t, a{j}, a{j + half};",
                    f"min.f32 a{j + half}, a{j}, a{j + half};",
                ]
                lines.append(f"mov.f32 a{j}, t;")
            half //= 2
    lines += ["mov.f32 $0, a0;", *(f"min.f32 $0, $0, a{j};" for j in range(1, k)), "}"]
    return "\n".join(lines), ",".join(["=&f"] + ["f"] * k)
