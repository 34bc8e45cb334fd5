"""Compile a Gluon kernel for Hopper where no GPU is, and print what the binary says of it.

Run as a script: the interpreter, which the other tests need, would take the kernels over.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

TILE_KEYS, SHARE = 256, 4


def descriptor(height: int, head_dim: int) -> str:
    layout = gl.NVMMASharedLayout.get_default_for([height, head_dim], gl.bfloat16)
    return f"tensordesc<bf16[{height}, {head_dim}],{layout!r}>"


def best_blocks(
    head_dim: int, rows: int, parts: int, stages: int, k: int
) -> tuple[Any, dict[str, Any], dict[str, str]]:
    """The 16-bit pass: kernel, constants, types of what is no integer."""
    module = importlib.import_module("reattention_kernels.topk_keys.gluon_prefill")
    asm, constraints = module.insertion_asm(k, 2 * parts)
    shared_asm, shared_constraints = module.shared_kth_asm(SHARE)
    constants = dict(
        BM=rows, BN=TILE_KEYS, PARTS=parts, K=k, SHARE=SHARE, STAGES=stages,
        ASM=asm, CONSTRAINTS=constraints,
        SHARED_ASM=shared_asm, SHARED_CONSTRAINTS=shared_constraints,
    )  # fmt: skip
    types = {
        "q_ptr": "*bf16",
        "k_desc": descriptor(TILE_KEYS, head_dim),
        "out_ptr": "*i64",
    }
    return module.best_blocks_hopper, constants, types


def rescoring(
    head_dim: int, rows: int, k: int, room: int
) -> tuple[Any, dict[str, Any], dict[str, str]]:
    """Pass 2: a warp for each row."""
    module = importlib.import_module("reattention_kernels.topk_keys.gluon_rescore")
    constants = dict(GROUP=4, D=head_dim, K=k, CP=room)
    types = {
        "q_ptr": "*bf16", "k_ptr": "*bf16", "cand_ptr": "*i64", "out_ptr": "*i32",
        "n_keys": "*i32",
    }  # fmt: skip
    return module.rescore_hopper, constants, types


def main(kind: str, head_dim: int, rows: int, *others: int) -> None:
    make = {"bf16": best_blocks, "rescore": rescoring}[kind]
    kernel, constants, types = make(head_dim, rows, *others)
    warps = rows // 16
    if "num_warps" in kernel.arg_names:
        constants["num_warps"] = warps
    of = {name: "constexpr" for name in constants} | types
    signature = {name: of.get(name, "i32") for name in kernel.arg_names}
    constexprs = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    aligned = [["tt.divisibility", 16]]
    attributes = {(i,): aligned for i, name in enumerate(kernel.arg_names) if fits_16(name)}
    source = GluonASTSource(kernel, signature, constexprs, attributes)
    compiled = triton.compile(
        source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps}
    )
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage, code = (
            subprocess.run(
                [tools / tool, flag, cubin], capture_output=True, text=True, check=True
            ).stdout
            for tool, flag in (("cuobjdump", "-res-usage"), ("nvdisasm", "-c"))
        )
    print(usage)
    print("products", code.count("GMMA.64x"), "waits", code.count("WARPGROUP.DEPBAR"))
    print("shared", compiled.metadata.shared, "whole-warp maxima", code.count("REDUX.MAX"))


def fits_16(name: str) -> bool:
    """Whether the argument is a multiple of 16 as a rule: an address, or a step between rows."""
    return name.endswith("_ptr") or name.startswith("stride")


if __name__ == "__main__":
    main(sys.argv[1], *(int(word) for word in sys.argv[2:]))
